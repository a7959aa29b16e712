"""A saved Deep LoRA adapter as a plain LoRA adapter, from its files alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from deep_lora.export.base_kinds import UNKNOWN_BASE, load_meta_base
from deep_lora.export.folders import AdapterFiles, check_alone, read_adapter, write_adapter
from deep_lora.export.lora import COPIED_FIELDS, LORA_BIASES, Ranks, kept_ranks, to_lora
from deep_lora.export.skeletons import deep_lora_skeleton, foreign_tensors
from deep_lora.export.target_names import held_targets, with_tied_targets
from deep_lora.files import AdapterFileError

# The skeleton's own are right: the file's config may name a head that is not tied after all.
_OF_THE_SKELETON = ("inference_mode", "target_parameters", "ensure_weight_tying")


def convert_folder(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    *,
    tolerance: float = 0.0,
    ranks: Ranks = "uniform",
    base_model: str | None = None,
    assume_linear: bool = False,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write a saved Deep LoRA adapter as a plain LoRA adapter, as `save_as_lora` does for a model.

    The base model's weights are not needed, only its configuration. Nothing in the folder is executed: tensors are read
    only from safetensors, and no memory is spent on what a damaged or hostile file only claims.

    Args:
        path: folder of the adapter.
        out: folder for the LoRA adapter; None writes nothing and only finds the ranks.
        tolerance: singular values below this fraction of a module's largest are dropped, in [0, 1); 0 is exact.
        ranks: "uniform", or "per_module" for a smaller file; see `to_lora`.
        base_model: name or folder of the base model, for the kinds of its layers; the one in the adapter's config if
            None.
        assume_linear: take every adapted layer as linear, if the base model is not available.
        overwrite: write into a folder that is not empty, and replace an adapter that is there.

    Returns:
        The rank kept in each module.

    Raises:
        AdapterFileError: a `ValueError`: the folder does not hold a sound Deep LoRA adapter, or the kinds of its layers
            are not known.
        FileExistsError: `out` is not empty, or has a Deep LoRA adapter in its subfolder.
        NotADirectoryError: `out` is a file.
        OSError: `out` cannot be written.

    >>> import tempfile, torch
    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     get_peft_model(model, DeepLoraConfig(r=2, target_modules=["0"])).save_pretrained(f"{folder}/adapter")
    ...     ranks = convert_folder(f"{folder}/adapter", f"{folder}/lora", assume_linear=True)
    ...     sorted(file.name for file in Path(folder, "lora").iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']
    >>> ranks  # a fresh update is zero
    {'base_model.model.0': 0}
    """
    output = None if out is None else Path(out)
    if output is not None:
        _check_free(output, overwrite)
    kept, fields, tensors = _convert(read_adapter(Path(path)), tolerance, ranks, base_model, assume_linear)
    if output is not None:
        try:
            write_adapter(output, fields, tensors)
        except OSError as error:
            raise OSError(f"{output} cannot be written: {error}") from error
    return kept


def _check_free(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; pass another `out`, the name of a folder")
    if not overwrite and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; pass another `out`, or `overwrite=True`")
    check_alone(output)


def _convert(
    files: AdapterFiles, tolerance: float, ranks: Ranks, base_model: str | None, assume_linear: bool
) -> tuple[dict[str, int], dict[str, Any], dict[str, Tensor]]:
    """The rank of each module, and the fields and tensors of the LoRA adapter."""
    if files.peft_type != "DEEP_LORA":
        raise AdapterFileError(f"the adapter is a {files.peft_type[:40]}, not a DEEP_LORA; there is nothing to convert")
    bias = _lora_bias(files.config)
    base = None if assume_linear else load_meta_base(files.config, base_model)
    if base is None and not assume_linear:
        raise AdapterFileError(
            f"{UNKNOWN_BASE}, so the kinds of the adapted layers are not known; pass `base_model`, or "
            "`assume_linear=True` if all of them are linear"
        )
    skeleton = deep_lora_skeleton(files, base)
    copied = [name for name in COPIED_FIELDS if name in files.config and name not in _OF_THE_SKELETON]
    try:
        config, tensors = to_lora(skeleton, tolerance=tolerance, ranks=ranks)
        kept = kept_ranks(skeleton, tolerance=tolerance)
        fields = config.to_dict() | {name: files.config[name] for name in copied}
        tied = getattr(skeleton.peft_config["default"], "target_modules_to_tie", None)
        fields["target_modules"] = with_tied_targets(held_targets(fields["target_modules"], kept), tied)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise AdapterFileError(f"the adapter cannot be converted: {error}") from error
    fields |= {"bias": bias, "inference_mode": True, "auto_mapping": _auto_mapping(files.config)}
    return kept, fields, tensors | foreign_tensors(files)


def _lora_bias(config: dict[str, Any]) -> str:
    """Which biases were trained, in PEFT's words; they are in the file beside the update."""
    bias = config.get("bias", "none")
    if not isinstance(bias, str) or bias not in LORA_BIASES:
        raise AdapterFileError(
            f"the adapter's config has the bias {str(bias)[:40]!r}; it must be one of {list(LORA_BIASES)}"
        )
    return LORA_BIASES[bias]


def _auto_mapping(config: dict[str, Any]) -> dict[str, Any] | None:
    """The class of the base, which adapters without a task name."""
    mapping = config.get("auto_mapping")
    return mapping if isinstance(mapping, dict) and not config.get("task_type") else None
