"""`deep-lora convert`: a Deep LoRA adapter as a plain LoRA adapter, from its files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deep_lora.export.folders import read_adapter
from deep_lora.export.conversion import convert
from training.errors import UsageError
from training.settings.common import option
from training.settings.parsing import parse

DESCRIPTION = """Writes a Deep LoRA adapter as a plain LoRA adapter with the same update, which every server loads.

  deep-lora convert --adapter runs/reviews/adapter --output_dir runs/reviews/as_lora
  deep-lora convert --adapter runs/reviews/adapter --output_dir small --tolerance 1e-3

The base model's weights are not needed. Nothing in the folder is executed; tensors are read from safetensors only."""


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
