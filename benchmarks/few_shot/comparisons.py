"""The results of the few-shot study: which settings there are, their methods' scores, and paired differences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.result_files import RESULTS, SETTINGS, result
from training.results.intervals import mean_with_interval

BASELINE, USUAL = "LoRA, tuned", "LoRA, not tuned"  # the second at its usual rate, 1e-3, as the next two at theirs
ONE_RATE = (USUAL, "LoRA, not tuned, 3e-4", "LoRA, not tuned, 3e-3")
RULED, RULED_LORA = "Deep LoRA, step rule", "LoRA, step rule"
FIXED, DEEPER = "Deep LoRA", "Deep LoRA, depth 5"  # at a rate of 3e-3, without the rule
LOSSES = ("e2e", "glosses")  # tasks whose score is minus a loss, not a share of something
FALLING = "_linear"  # how the settings end in which all rates fall to 0
SEEDS = 10  # of a setting that counts in a mean over settings
Means = dict[str, dict[float, dict[str, Any]]]


def methods_of(name: str) -> dict[str, Any]:
    return result(f"few_shot_{name}")["methods"]


def settings_of(name: str) -> dict[str, Any]:
    return result(f"few_shot_{name}")["settings"]


def task_of(name: str) -> dict[str, Any]:
    task: dict[str, Any] = settings_of(name)["task"]
    return task


def title(name: str) -> str:
    """Name a setting, without what all compared settings share."""
    text: str = settings_of(name)["title"]
    return text.removesuffix(", falling rate")


def results() -> list[str]:
    """List all settings with a result, in their order."""
    paths = SETTINGS.glob("few_shot_*.json")
    settings = [path.stem.removeprefix("few_shot_") for path in paths if (RESULTS / path.name).is_file()]
    return sorted(settings, key=lambda name: (settings_of(name)["order"], name))


def compared() -> list[str]:
    """List the settings at falling rates in which Deep LoRA under the step rule ran beside tuned LoRA."""
    return [name for name in results() if name.endswith(FALLING) and {BASELINE, RULED} <= methods_of(name).keys()]


def in_points() -> list[str]:
    """List those of them whose score is a correlation or an accuracy."""
    return [name for name in compared() if task_of(name)["name"] not in LOSSES]


def with_all_seeds() -> list[str]:
    """List those of them with as many seeds as a mean over settings needs."""
    return [name for name in in_points() if methods_of(name)[RULED]["seeds_compared"] >= SEEDS]


def with_all_rates() -> list[str]:
    """List those of them in which LoRA ran at all of its single rates."""
    return [name for name in with_all_seeds() if set(ONE_RATE) <= methods_of(name).keys()]


def gaps(name: str, method: str, other: str) -> list[float]:
    """Subtract another method's test score from a method's, seed by seed."""
    mine, theirs = (methods_of(name)[which]["test"]["values"] for which in (method, other))
    return [ours - its for ours, its in zip(mine, theirs, strict=False)]


def ahead(names: Sequence[str], method: str, other: str) -> dict[str, Any] | None:
    """Average the differences over settings, seed by seed, for the seeds that all of them have.

    Returns:
        Mean, interval, seeds won and seeds; None if a setting lacks a method.
    """
    if any(not {method, other} <= methods_of(name).keys() for name in names):
        return None
    means = [fmean(seed) for seed in zip(*[gaps(name, method, other) for name in names], strict=False)]
    return mean_with_interval(means) | {"won": sum(gap > 0 for gap in means), "seeds": len(means)}


def best_one_rate() -> str:
    """Choose the LoRA with the best mean among those with one rate for all settings."""
    names = with_all_rates()
    return max(ONE_RATE, key=lambda method: fmean(gap for name in names for gap in gaps(name, method, BASELINE)))


def families(name: str, option: str) -> Means:
    """Map family -> value of an option -> row, for the methods named "family, option value".

    >>> sorted(families("simlex_64_ranks_linear", "r="))[0]
    'Deep LoRA'
    """
    found: Means = {}
    for method, row in methods_of(name).items():
        matched = re.fullmatch(f"(.*), {option}([0-9.e-]+)", method)
        if matched:
            found.setdefault(matched[1], {})[float(matched[2])] = row
    return {family: dict(sorted(rows.items())) for family, rows in found.items()}


def spread(rows: dict[float, dict[str, Any]]) -> float:
    """Subtract the smallest mean test score from the largest.

    >>> spread({1.0: {"test": {"mean": 0.5}}, 8.0: {"test": {"mean": 0.25}}})
    0.25
    """
    means = [row["test"]["mean"] for row in rows.values()]
    return max(means) - min(means)
