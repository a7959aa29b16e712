"""The README's table of what Deep LoRA is ahead of LoRA, by kind of task, made from the few-shot results alone."""

from __future__ import annotations

from collections.abc import Callable

from evidence_overview import ahead, best_one_rate
from evidence_tables import (
    BASELINE,
    DEEPER,
    LIMITED_DEEPER,
    LOSSES,
    SEEDS,
    UNTUNED,
    averaged,
    comparisons,
    methods_of,
    settings_of,
    with_enough_seeds,
)  # fmt: skip
from markdown_tables import markdown

METHODS = {
    UNTUNED: "default, rate 3e-3",
    DEEPER: "`depth=5`, rate 3e-3",
    LIMITED_DEEPER: "`depth=5`, steps limited, rate 0.1",
}
KINDS: dict[str, tuple[str, ...]] = {
    "similarity of words (SimLex-999, Rare Words)": ("simlex", "rare_words"),
    "relatedness of words (WordSim-353, MEN)": ("wordsim", "men"),
    "film reviews, positive or negative": ("rotten_tomatoes",),
    "similarity of sentences (STS-B)": ("stsb",),
}


def better() -> str:
    """Paired differences to tuned LoRA at falling rates: means over settings, and ranges over those of one kind."""
    all_of_them, with_rival = with_enough_seeds(falling=True), averaged(falling=True)
    rival = best_one_rate(falling=True)
    rate = rival.rpartition(", ")[2]
    rows = [
        _row(
            f"mean of {len(all_of_them)} settings, {SEEDS} seeds", lambda method: ahead(all_of_them, method, BASELINE)
        ),
        _row(
            f"mean of {len(with_rival)} settings against LoRA at {rate} in all of them, the best of three",
            lambda method: ahead(with_rival, method, rival),
        ),
    ]
    for kind, tasks in KINDS.items():
        rows.append(_range_row(kind, [name for name in _clean() if settings_of(name)["task"]["name"] in tasks]))
    rows.append(_range_row("noisy labels (words and reviews)", [name for name in comparisons(True) if _noisy(name)]))
    writing = [name for name in _clean() if settings_of(name)["task"]["name"] in LOSSES]
    rows.append(_range_row("writing, SmolLM2-135M (hundredths of a nat a token)", writing))
    return markdown(["points ahead of tuned LoRA", *METHODS.values()], rows)


def _noisy(name: str) -> bool:
    return bool(settings_of(name)["task"].get("noise"))


def _clean() -> list[str]:
    return [name for name in comparisons(falling=True) if not _noisy(name)]


def _row(label: str, cell: Callable[[str], str]) -> list[str]:
    return [label, *(cell(method) for method in METHODS)]


def _range_row(kind: str, names: list[str]) -> list[str]:
    *smaller, largest = (f"{size:,}" for size in sorted({settings_of(name)["task"]["samples"] for name in names}))
    samples = f"{', '.join(smaller)} and {largest}" if smaller else largest
    return _row(f"{kind}, {samples} samples", lambda method: _range(names, method))


def _range(names: list[str], method: str) -> str:
    """The smallest and the largest mean difference, or a dash where a setting lacks the method."""
    if any(method not in methods_of(name) for name in names):
        return "-"
    means = [100 * methods_of(name)[method]["difference"]["mean"] for name in names]
    return f"{min(means):+.1f} to {max(means):+.1f}" if len(means) > 1 else f"{means[0]:+.1f}"
