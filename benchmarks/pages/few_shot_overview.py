"""Tables of all few-shot settings at once: differences to tuned LoRA, and the cost of one rate for everything."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from benchmarks.few_shot.comparisons import (
    BASELINE,
    BOTH,
    CUBED,
    DEEPER,
    NO_GUARD,
    OLD,
    ONE_RATE,
    OURS,
    RULED,
    RULED_BASELINE,
    SEEDS,
    UNTUNED,
    averaged,
    gaps,
    in_points,
    methods_of,
    settings_of,
    title,
    with_enough_seeds,
)  # fmt: skip
from benchmarks.markdown import interval, markdown
from benchmarks.paired import mean_with_interval

BESIDE = (UNTUNED, DEEPER, BOTH, OLD, *ONE_RATE)
BESIDE_RULED = (RULED, RULED_BASELINE, NO_GUARD, CUBED, UNTUNED, *ONE_RATE)


def overview(falling: bool) -> str:
    """Write one row for each setting: tuned LoRA's score, and the paired differences of the others to it."""
    rows = []
    for name in in_points(falling):
        methods = methods_of(name)
        cells = [_difference(methods.get(method)) for method in BESIDE]
        rows.append([title(name), interval(methods[BASELINE]["test"], 100, 1), *cells])
    everything, with_rates = with_enough_seeds(falling), averaged(falling)
    groups = [(f"mean of the {len(everything)} with {SEEDS} seeds", everything)]
    if with_rates != everything:
        groups.append((f"mean of the {len(with_rates)} of them with LoRA at three rates", with_rates))
    for label, names in groups:
        rows.append([label, "", *(ahead(names, method, BASELINE) for method in BESIDE)])
    used = [any(cells) for cells in zip(*rows, strict=True)]  # a method that no setting has needs no column
    table = [["setting", BASELINE, *BESIDE], *rows]
    header, *body = [[cell for cell, use in zip(row, used, strict=True) if use] for row in table]
    return markdown(header, body)


def ruled() -> str:
    """Write the settings in which the step rule has run: differences to tuned LoRA, and their mean."""
    names = [name for name in in_points(falling=True) if RULED in methods_of(name)]
    rows = [
        [title(name), interval(methods_of(name)[BASELINE]["test"], 100, 1)]
        + [_difference(methods_of(name).get(method)) for method in BESIDE_RULED]
        for name in names
    ]
    full = [name for name in names if methods_of(name)[RULED]["seeds_compared"] >= SEEDS]
    rows.append([f"mean of the {len(full)} with {SEEDS} seeds", "", *(ahead(full, m, BASELINE) for m in BESIDE_RULED)])
    both = [name for name in full if RULED_BASELINE in methods_of(name)]
    if both != full:
        label = f"mean of the {len(both)} of them where LoRA ran under the rule"
        rows.append([label, "", *(ahead(both, m, BASELINE) for m in BESIDE_RULED)])
    rows.append([f"the same, ahead of {RULED_BASELINE}", "", *(ahead(both, m, RULED_BASELINE) for m in (RULED,))])
    return markdown(
        ["setting", BASELINE, *BESIDE_RULED], [row + [""] * (2 + len(BESIDE_RULED) - len(row)) for row in rows]
    )


def one_rate() -> str:
    """Write means over the settings with falling rates, clean and noisy ones, of methods with one rate for all."""
    groups, rival = _groups(), best_one_rate(falling=True)
    everything = next(iter(groups))
    header = [f"ahead of {BASELINE}: {group}" for group in groups] + [f"ahead of {rival}: {everything}"]
    rows = [
        [
            method,
            *(ahead(names, method, BASELINE) for names in groups.values()),
            ahead(groups[everything], method, rival),
        ]
        for method in (RULED, *OURS, *ONE_RATE)
    ]
    return markdown(["method, one rate", *header], rows)


def _groups() -> dict[str, list[str]]:
    """Group the settings with falling rates and enough seeds: all, the clean and the noisy ones."""
    names = averaged(falling=True)
    noisy = [name for name in names if settings_of(name)["task"].get("noise")]
    clean = [name for name in names if name not in noisy]
    return {f"all {len(names)}": names, f"{len(clean)} clean": clean, f"{len(noisy)} noisy": noisy}


def best_one_rate(falling: bool) -> str:
    """Choose the LoRA with the best mean among those with one rate for all settings."""
    names = averaged(falling)
    have = [method for method in ONE_RATE if all(method in methods_of(name) for name in names)]
    return max(have, key=lambda method: fmean(gap for name in names for gap in gaps(name, method, BASELINE)))


def _difference(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{interval(row['difference'], 100, 1, '+')}, {row['seeds_won']} of {row['seeds_compared']}"


def ahead(names: list[str], method: str, other: str) -> str:
    """Average over settings, seed by seed, for the seeds that all of them have; empty if one lacks a method."""
    if any(not {method, other} <= methods_of(name).keys() for name in names):
        return ""
    means = [fmean(seed) for seed in zip(*[gaps(name, method, other) for name in names], strict=False)]
    return f"{interval(mean_with_interval(means), 100, 1, '+')}, {sum(gap > 0 for gap in means)} of {len(means)}"


OVERVIEWS: dict[str, Callable[[], str]] = {
    "overview": lambda: overview(falling=False),
    "overview falling": lambda: overview(falling=True),
    "one rate": one_rate,
    "ruled": ruled,
}
