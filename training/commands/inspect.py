"""`deep-lora inspect`: effective rank, sizes and spectra of an adapter, module by module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deep_lora import AdapterFileError, AdapterReport, inspect_adapter
from training.errors import UsageError, worded_as_options
from training.names import INSPECTION, SPECTRA
from training.results.figures import figure
from training.results.folders import require_writable, saving
from training.results.report import write_json
from training.settings.parsing import option, parse

DESCRIPTION = """Show what an adapter has learned: the singular values of each module's update.

  deep-lora inspect --adapter runs/reviews/adapter
  deep-lora inspect --adapter runs/reviews/adapter --output_dir runs/reviews/spectra

It reads Deep LoRA and LoRA adapters; the base model's weights are not needed. With --output_dir it also writes
inspection.json and spectra.png. The effective rank is the exponential of the entropy of the normalized singular values
(Roy and Vetterli, 2007)."""

_NAME = 24  # columns of a name in the table, which has 80
_NAMED = 40  # bars that have names
_OPTIONS = {"`base_model`": "--model", "`assume_linear=True`": "--assume_linear"}


@dataclass
class InspectArguments:
    """What is looked at."""

    adapter: str | None = option(None, "Folder of the saved adapter.")
    model: str | None = option(
        None, "Base model, for the kinds of its layers; if unset, the one that the adapter names."
    )
    assume_linear: bool = option(False, "Treat every adapted layer as linear, if the base model is not available.")
    output_dir: str | None = option(None, "Folder for inspection.json and spectra.png; nothing is written if unset.")


TYPES = (InspectArguments,)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    (arguments,) = parse(TYPES, words, command="inspect", description=DESCRIPTION)
    if not arguments.adapter:
        raise UsageError("inspect needs --adapter, the folder of a saved adapter")
    if arguments.output_dir:
        require_writable(Path(arguments.output_dir))
    with worded_as_options(_OPTIONS, AdapterFileError):
        report = inspect_adapter(arguments.adapter, base_model=arguments.model, assume_linear=arguments.assume_linear)
    print(table(report))
    if arguments.output_dir:
        folder = Path(arguments.output_dir)
        with saving(str(folder), "what is above is complete"):
            write_json(folder / INSPECTION, asdict(report))
            draw(folder / SPECTRA, report)
        print(f"written to {folder}: {INSPECTION}, {SPECTRA}")
    return 0


def table(report: AdapterReport) -> str:
    """Return one row for each module, and the totals."""
    width = min(_NAME, max(len("module"), *(len(one.module) for one in report.modules)))
    rows = [f"{'module':<{width}}  {'out x in':>13}  rank  effective  largest     smallest"]
    for one in report.modules:
        size = f"{one.out_features} x {one.in_features}"
        largest, smallest = one.singular_values[0], one.singular_values[-1]
        name, ends = _short(one.module, width), f"{largest:<10.3e}  {smallest:.3e}"
        rows.append(f"{name:<{width}}  {size:>13}  {one.rank:>4}  {one.effective_rank:>9.2f}  {ends}")
    count = len(report.modules)
    mean = sum(one.effective_rank for one in report.modules) / count
    rows.append(
        f"{count} modules, mean effective rank {mean:.2f}; {report.parameters:,} numbers, "
        f"{report.bytes / 1024:,.0f} KiB"
    )
    return "\n".join(rows)


def _short(name: str, width: int) -> str:
    """Return a name in so many columns: its end, after the numbers that are cut off, such as that of a layer.

    >>> _short("bert.encoder.layer.11.attention.self.query", 22), _short("bert.encoder.layer.11.self.key", 15)
    ('11…ttention.self.query', '…er.11.self.key')
    """
    if len(name) <= width:
        return name
    first = len(name) + 1 - width
    cut = name[: max(first, name.find(".", first))]  # with the rest of a part that would be cut in two
    numbers = ".".join(part for part in cut.split(".") if part.isdecimal())[: width // 2]
    return f"{numbers}…{name[len(numbers) + 1 - width :]}"


def draw(path: Path, report: AdapterReport) -> None:
    """Draw the singular values of every module, and their effective ranks."""
    with figure(path, columns=2, size=(5.5, 4.5)) as (spectra, ranks):
        for one in report.modules:
            positive = [value for value in one.singular_values if value > 0]
            spectra.plot(range(1, len(positive) + 1), positive, linewidth=0.9, alpha=0.6)
        spectra.set(title="singular values of the update", xlabel="index", ylabel="value")
        if any(one.singular_values[0] > 0 for one in report.modules):
            spectra.set_yscale("log")
        ranks.bar(range(len(report.modules)), [one.effective_rank for one in report.modules])
        ranks.set(title="effective rank", xlabel="module, in the order of the table")
        if len(report.modules) <= _NAMED:
            names = [_short(one.module, _NAME) for one in report.modules]
            ranks.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
