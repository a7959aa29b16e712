"""`deep-lora convert`: a Deep LoRA adapter as a plain LoRA adapter, from its files alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from deep_lora import kept_ranks, to_lora
from training.adapter_files import CONFIG, WEIGHTS, AdapterFiles, read_adapter
from training.arguments import parse
from training.errors import RunError, UsageError
from training.settings import option
from training.skeletons import PREFIX, deep_lora_skeleton, foreign_tensors, load_meta_base

DESCRIPTION = """Writes a Deep LoRA adapter as a plain LoRA adapter with the same update, which every server loads.

  deep-lora convert --adapter runs/reviews/adapter --output_dir runs/reviews/as_lora
  deep-lora convert --adapter runs/reviews/adapter --output_dir small --tolerance 1e-3

The base model's weights are not needed. Nothing in the folder is executed; tensors are read from safetensors only."""
# What the exported config says as the adapter's does; the rest follows from the update.
_COPIED = (
    "task_type", "base_model_name_or_path", "revision", "target_modules", "exclude_modules", "modules_to_save",
    "fan_in_fan_out", "layers_to_transform", "layers_pattern", "trainable_token_indices",
)  # fmt: skip


@dataclass
class ConvertArguments:
    """What is converted, and where to."""

    adapter: str | None = option(None, "Folder of the saved Deep LoRA adapter.")
    output_dir: str | None = option(None, "Folder for the LoRA adapter; it must be empty, or --overwrite given.")
    tolerance: float = option(0.0, "Singular values below this part of a module's largest are dropped; 0 is exact.")
    model: str | None = option(None, "Base model, for the kinds of its layers; the one in the config if unset.")
    assume_linear: bool = option(False, "Take every adapted layer as linear, where the base model is not at hand.")
    overwrite: bool = option(False, "Replace what is in --output_dir.")
    dry_run: bool = option(False, "Show the ranks, and write nothing.")


def main(words: Sequence[str]) -> int:
    """Runs the command; the exit status."""
    (arguments,) = parse((ConvertArguments,), words, command="convert", description=DESCRIPTION)
    if not arguments.adapter or not (arguments.output_dir or arguments.dry_run):
        raise UsageError("convert needs --adapter and --output_dir")
    output = None if arguments.dry_run else Path(arguments.output_dir)
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not arguments.overwrite or not output.is_dir():
            raise UsageError(f"{output} is not empty; pass another --output_dir, or --overwrite")
    ranks = convert(
        read_adapter(Path(arguments.adapter)), output, arguments.tolerance, arguments.model, arguments.assume_linear
    )
    print(f"{len(ranks)} modules, largest rank {max(ranks.values())}" + (f", written to {output}" if output else ""))
    return 0


def convert(
    files: AdapterFiles,
    output: Path | None,
    tolerance: float = 0.0,
    model: str | None = None,
    assume_linear: bool = False,
) -> dict[str, int]:
    """Writes the LoRA adapter, and returns the rank of each module.

    Raises:
        UsageError: the files are no Deep LoRA adapter, or the kinds of its layers are not known.
        RunError: the output cannot be written.
    """
    if files.config["peft_type"].upper() != "DEEP_LORA":
        raise UsageError(
            f"the adapter is a {files.config['peft_type'][:40]}, not a DEEP_LORA; there is nothing to convert"
        )
    base = None if assume_linear else load_meta_base(files.config, model)
    if base is None and not assume_linear:
        raise UsageError(
            "the base model's configuration is not on this machine, so the kinds of the adapted layers are not known; "
            "pass --model, or --assume_linear if all of them are linear"
        )
    skeleton = deep_lora_skeleton(files, base)
    try:
        config, tensors = to_lora(skeleton, tolerance=tolerance)
        ranks = kept_ranks(skeleton, tolerance=tolerance)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise UsageError(f"the adapter cannot be converted: {error}") from error
    if output is not None:
        fields = config.to_dict() | {name: files.config[name] for name in _COPIED if name in files.config}
        named = {name if name.startswith(PREFIX) else PREFIX + name: tensor for name, tensor in tensors.items()}
        _write(output, fields | {"inference_mode": True}, named | foreign_tensors(files))
    return ranks


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
