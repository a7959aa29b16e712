"""A saved Deep LoRA adapter as a plain LoRA adapter, from its files alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import save_file

from deep_lora import kept_ranks, to_lora
from deep_lora.export.lora import LORA_BIASES, with_tied_targets
from deep_lora.export.folders import CONFIG, WEIGHTS, AdapterFiles
from training.errors import RunError, UsageError
from deep_lora.export.skeletons import PREFIX, deep_lora_skeleton, foreign_tensors, load_meta_base

# What the exported config says as the adapter's does; the rest follows from the update.
_COPIED = (
    "task_type", "base_model_name_or_path", "revision", "target_modules", "exclude_modules", "modules_to_save",
    "fan_in_fan_out", "layers_to_transform", "layers_pattern", "trainable_token_indices",
)  # fmt: skip


def convert(
    files: AdapterFiles,
    output: Path | None,
    tolerance: float = 0.0,
    model: str | None = None,
    assume_linear: bool = False,
) -> dict[str, int]:
    """Writes the LoRA adapter, and returns the rank of each module.

    Raises:
        UsageError: the files are no Deep LoRA adapter, its config says what there is not, or the kinds of its layers
            are not known.
        RunError: the output cannot be written.
    """
    if files.config["peft_type"].upper() != "DEEP_LORA":
        raise UsageError(
            f"the adapter is a {files.config['peft_type'][:40]}, not a DEEP_LORA; there is nothing to convert"
        )
    bias = _lora_bias(files.config)
    base = None if assume_linear else load_meta_base(files.config, model)
    if base is None and not assume_linear:
        raise UsageError(
            "the base model's configuration is not on this machine, or is none of transformers, so the kinds of the "
            "adapted layers are not known; pass --model, or --assume_linear if all of them are linear"
        )
    skeleton = deep_lora_skeleton(files, base)
    try:
        config, tensors = to_lora(skeleton, tolerance=tolerance)
        ranks = kept_ranks(skeleton, tolerance=tolerance)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise UsageError(f"the adapter cannot be converted: {error}") from error
    if output is not None:
        fields = config.to_dict() | {name: files.config[name] for name in _COPIED if name in files.config}
        tied = getattr(skeleton.peft_config["default"], "target_modules_to_tie", None)
        fields["target_modules"] = with_tied_targets(fields["target_modules"], tied)
        fields |= {"bias": bias, "inference_mode": True, "auto_mapping": _auto_mapping(files.config)}
        named = {name if name.startswith(PREFIX) else PREFIX + name: tensor for name, tensor in tensors.items()}
        _write(output, fields, named | foreign_tensors(files))
    return ranks


def _lora_bias(config: dict) -> str:
    """Which biases were trained, in PEFT's words; they are in the file beside the update."""
    bias = config.get("bias", "none")
    if not isinstance(bias, str) or bias not in LORA_BIASES:
        raise UsageError(f"the adapter's config has the bias {str(bias)[:40]!r}; it must be one of {list(LORA_BIASES)}")
    return LORA_BIASES[bias]


def _auto_mapping(config: dict) -> dict | None:
    """The class of the base, which adapters without a task name."""
    mapping = config.get("auto_mapping")
    return mapping if isinstance(mapping, dict) and not config.get("task_type") else None


def _write(folder: Path, fields: dict, tensors: dict) -> None:
    partial = folder / f".{WEIGHTS}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata={"format": "pt"})
        text = json.dumps(fields, indent=2, sort_keys=True, default=_as_json)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        os.replace(partial, folder / WEIGHTS)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error}") from error
    finally:
        if folder.is_dir():
            partial.unlink(missing_ok=True)


def _as_json(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(getattr(value, "value", value))
