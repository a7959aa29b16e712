"""`deep-lora merge`: an adapter merged into its base model, as a model of transformers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from training.commands.serve_check import adapter_folder
from training.errors import UsageError, redacted
from training.models.loading import without_report
from training.names import PARTIAL, RESULTS
from training.prediction.merging import Mergeable, Merged, merge, read_mergeable, stored_precision
from training.prediction.runs import find_run
from training.results.folders import require_writable, saving
from training.settings.parsing import option, parse

DESCRIPTION = """Merge an adapter into the unquantized weights of its base model, for programs that load no adapters.

  deep-lora merge runs/reviews --output_dir merged
  deep-lora merge runs/chat/adapter --output_dir merged --dtype bfloat16

Writes the model as safetensors, with its configuration and tokenizer. The sum is computed in float32, so there must
be memory for the model in float32, and the outputs are compared with those before merging."""
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass
class MergeArguments:
    """What is merged, and where to."""

    adapter: str | None = option(None, "Folder of the run or of the adapter; --adapter itself may be left out.")
    output_dir: str | None = option(None, "Folder for the model; it must be empty, unless --overwrite is given.")
    model: str | None = option(None, "Base model, if it has been moved, or an unquantized copy of it.")
    dtype: str = option("auto", "Precision of the result: float32, bfloat16, float16 or auto (as the base is stored).")
    trust_remote_code: bool = option(False, "Run Python code from the model's repository; otherwise it is refused.")
    overwrite: bool = option(False, "Replace what is in --output_dir.")

    def __post_init__(self) -> None:
        if self.dtype not in PRECISIONS:
            raise UsageError(f"--dtype got {self.dtype!r}; choose float32, bfloat16, float16 or auto")


TYPES = (MergeArguments,)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    words = ["--adapter", *words] if words and not words[0].startswith("-") else list(words)
    (arguments,) = parse(TYPES, words, command="merge", description=DESCRIPTION)
    if not arguments.adapter or not arguments.output_dir:
        raise UsageError("merge needs the folder of a run or of an adapter, and --output_dir")
    output, token = Path(arguments.output_dir), os.environ.get("HF_TOKEN")
    adapter = adapter_folder(Path(arguments.adapter))
    what = read_mergeable(adapter, find_run(adapter), arguments.model, trust=arguments.trust_remote_code)
    _require_free(output, arguments.overwrite, adapter, Path(str(what.base.model)))
    stored = stored_precision(what.base, token)
    dtype = stored if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    merged = merge(what, dtype, token)
    write(output, merged.model.to(dtype), _processor(adapter, what, token))
    print("\n".join(_told(what, merged, dtype, output)))
    return 0


def _require_free(output: Path, overwrite: bool, *sources: Path) -> None:
    """Raise if the folder cannot be written, or replacing it would delete what is read."""
    require_writable(output)
    inside = [source for source in sources if source.resolve().is_relative_to(output.resolve())]
    if inside:
        raise UsageError(f"--output_dir {output} holds {inside[0]}, which this command reads; pass another folder")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise UsageError(f"{output} is not empty; pass another --output_dir, or --overwrite")


def _processor(adapter: Path, what: Mergeable, token: str | None) -> Any:
    """Return the tokenizer or image processor, that of the adapter before that of the base; None if there is none."""
    settings: dict[str, Any] = {"trust_remote_code": what.base.trust_remote_code, "token": token}
    for name in (str(adapter), str(what.base.model)):
        for kind in (transformers.AutoTokenizer, transformers.AutoImageProcessor):
            try:
                return kind.from_pretrained(name, **settings)
            except (OSError, ValueError, KeyError, ImportError, TypeError):
                continue
    return None


def write(output: Path, model: Any, processor: Any) -> None:
    """Write model and tokenizer to a folder that appears under its name when it is complete.

    Raises:
        RunError: it cannot be written.
    """
    partial = output.absolute().with_name(f"{PARTIAL}-{output.absolute().name}")
    shutil.rmtree(partial, ignore_errors=True)
    with saving(str(output), "nothing is kept"), without_report():
        try:
            model.save_pretrained(partial)
            if processor is not None:
                processor.save_pretrained(partial)
            if output.exists():
                shutil.rmtree(output)
            os.rename(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _told(what: Mergeable, merged: Merged, dtype: torch.dtype, output: Path) -> list[str]:
    """Say what was written, and in what it differs from the adapter on its base."""
    precision = str(dtype).removeprefix("torch.")
    lines = [redacted(f"{merged.modules} modules merged into {what.base.model}, in {precision}, written to {output}")]
    if merged.lost:
        lines.append(
            f"{precision} rounds the merged weights by {merged.lost:.1%} of the update; --dtype float32 keeps all of it"
        )
    if what.quantized:
        lines.append(
            "the adapter was trained on quantized weights; on these, which are not, outputs differ from those in "
            f"{RESULTS}"
        )
    return lines
