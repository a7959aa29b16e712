"""`deep-lora convert`: a Deep LoRA adapter as a plain LoRA adapter, or as a file of llama.cpp, from its files alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deep_lora import AdapterFileError, convert_folder, convert_to_gguf
from training.errors import UsageError, worded_as_options
from training.names import GGUF
from training.settings.parsing import option, parse

DESCRIPTION = """Write a Deep LoRA adapter as a plain LoRA adapter with the same update, for servers that load LoRA.

  deep-lora convert --adapter runs/reviews/adapter --output_dir runs/reviews/as_lora
  deep-lora convert --adapter runs/reviews/adapter --output_dir small --tolerance 1e-3
  deep-lora convert --adapter runs/chat/adapter --output_dir runs/chat --to gguf

The base model's weights are not needed. Nothing in the folder is executed; tensors are read from safetensors only."""

_OPTIONS = {
    "`out`": "--output_dir", "`overwrite=True`": "--overwrite", "`base_model`": "--model",
    "`assume_linear=True`": "--assume_linear",
}  # fmt: skip


@dataclass
class ConvertArguments:
    """What is converted, and where to."""

    adapter: str | None = option(None, "Folder of the saved Deep LoRA adapter.")
    output_dir: str | None = option(None, "Folder for the LoRA adapter; it must be empty, unless --overwrite is given.")
    tolerance: float = option(
        0.0,
        "Drop singular values below this fraction of a module's largest; 0 is exact. `save_as_lora` in Python can find "
        "one that keeps the outputs on your data.",
    )
    model: str | None = option(
        None, "Base model, for the kinds of its layers; if unset, the one that the adapter names."
    )
    to: Literal["lora", "gguf"] = option(
        "lora", "lora: a PEFT folder; gguf: a file adapter.gguf for llama.cpp and what is built on it (Ollama)."
    )
    ranks: Literal["uniform", "per_module"] = option(
        "uniform",
        "per_module: each module's own rank; a smaller file, which PEFT and vLLM can read, SGLang and TGI cannot.",
    )
    assume_linear: bool = option(False, "Treat every adapted layer as linear, if the base model is not available.")
    overwrite: bool = option(False, "Replace what is in --output_dir.")
    dry_run: bool = option(False, "Show the ranks, and write nothing.")


TYPES = (ConvertArguments,)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    (arguments,) = parse(TYPES, words, command="convert", description=DESCRIPTION)
    if not arguments.adapter or not (arguments.output_dir or arguments.dry_run):
        raise UsageError("convert needs --adapter and --output_dir")
    output = None if arguments.dry_run else arguments.output_dir
    if arguments.to == "gguf":
        return _to_gguf(arguments, output)
    with worded_as_options(_OPTIONS, AdapterFileError, FileExistsError, NotADirectoryError):
        ranks = convert_folder(
            arguments.adapter,
            output,
            tolerance=arguments.tolerance,
            ranks=arguments.ranks,
            base_model=arguments.model,
            assume_linear=arguments.assume_linear,
            overwrite=arguments.overwrite,
        )
    print(f"{len(ranks)} modules, largest rank {max(ranks.values())}" + (f", written to {output}" if output else ""))
    return 0


def _to_gguf(arguments: ConvertArguments, output: str | None) -> int:
    path = None if output is None else Path(output) / GGUF
    if path is not None and path.exists() and not arguments.overwrite:
        raise UsageError(f"{path} is there already; pass another --output_dir, or --overwrite")
    with worded_as_options(_OPTIONS, AdapterFileError, NotADirectoryError):
        ranks = convert_to_gguf(str(arguments.adapter), path, tolerance=arguments.tolerance, base_model=arguments.model)
    print(f"{len(ranks)} modules, largest rank {max(ranks.values())}" + (f", written to {path}" if path else ""))
    return 0
