"""The results of the few-shot study: which settings there are, their methods' scores, and paired differences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from benchmarks.result_files import RESULTS, SETTINGS, result
from training.results.intervals import mean_with_interval

BASELINE, TUNED_RATE, BATCHED = "LoRA, tuned", "LoRA, tuned rate", "LoRA, tuned, batch size too"
USUAL = "LoRA, not tuned"  # at its usual rate, 1e-3, as the next two are at theirs
ONE_RATE = (USUAL, "LoRA, not tuned, 3e-4", "LoRA, not tuned, 3e-3")
RULED, RULED_LORA = "Deep LoRA, step rule", "LoRA, step rule"
FIXED, DEEPER = "Deep LoRA", "Deep LoRA, depth 5"  # at a rate of 3e-3, without the rule
LOSSES = ("e2e", "glosses")  # tasks whose score is minus a loss, not a share of something
FALLING = "_linear"  # how the settings end in which all rates fall to 0
FRESH = "_fresh"  # how the settings end whose seeds were run once, after the rule had been fixed
LATER = "_later"  # and after its guard for classes had been changed
SEEDS = 10  # of a setting that counts in a mean over settings
Means = dict[str, dict[float, dict[str, Any]]]
Gaps = Callable[[str, str, str], list[float]]


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


def has(name: str, *methods: str) -> bool:
    """Tell whether all of these methods ran in a setting."""
    return (RESULTS / f"few_shot_{name}.json").is_file() and set(methods) <= methods_of(name).keys()


def gaps(name: str, method: str, other: str) -> list[float]:
    """Subtract another method's test score from a method's, seed by seed."""
    mine, theirs = (methods_of(name)[which]["test"]["values"] for which in (method, other))
    return [ours - its for ours, its in zip(mine, theirs, strict=False)]


def all_gaps(name: str, method: str, other: str) -> list[float]:
    """Return the differences of a setting and those of its fresh and later seeds, if it has any."""
    more = [name + ending for ending in (FRESH, LATER) if has(name + ending, method, other)]
    return [gap for place in (name, *more) for gap in gaps(place, method, other)]


def ahead(names: Sequence[str], method: str, other: str, differences: Gaps = gaps) -> dict[str, Any] | None:
    """Average the differences over settings, seed by seed, for the seeds that all of them have.

    Args:
        differences: of a setting: `gaps` or `all_gaps`.

    Returns:
        As `summarized`; None if a setting lacks a method.
    """
    if any(not {method, other} <= methods_of(name).keys() for name in names):
        return None
    found = [differences(name, method, other) for name in names]
    return summarized([fmean(seed) for seed in zip(*found, strict=False)])


def overall(name: str, method: str) -> dict[str, Any]:
    """Summarize the differences of a method to tuned LoRA, over all seeds of a setting."""
    return summarized(all_gaps(name, method, BASELINE))


def summarized(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, interval, seeds won and seeds.

    >>> summarized([0.25, 0.25])
    {'mean': 0.25, 'low': 0.25, 'high': 0.25, 'won': 2, 'seeds': 2}
    """
    return mean_with_interval(values) | {"won": sum(gap > 0 for gap in values), "seeds": len(values)}


def best_one_rate() -> str:
    """Choose the LoRA with the best mean among those with one rate for all settings."""
    names = with_all_rates()
    return max(ONE_RATE, key=lambda method: fmean(gap for name in names for gap in gaps(name, method, BASELINE)))


def tuned_method(name: str) -> str:
    """Return the LoRA that was tuned in a setting; in runs of other lengths it was for its rate alone."""
    return BASELINE if BASELINE in methods_of(name) else TUNED_RATE


def all_scores(name: str, method: str) -> list[float]:
    """Return a method's test scores on the seeds of a setting, then on its fresh and later ones, if it ran on any."""
    more = [name + ending for ending in (FRESH, LATER) if has(name + ending, method)]
    return [value for place in (name, *more) for value in methods_of(place)[method]["test"]["values"]]


def scores(name: str, method: str) -> dict[str, Any]:
    """Summarize a method's test scores over all seeds of a setting: mean, interval, seeds."""
    values = all_scores(name, method)
    return mean_with_interval(values) | {"seeds": len(values)}


def families(name: str, option: str) -> Means:
    """Map family -> value of an option -> scores, for the methods named "family, option value".

    >>> sorted(families("simlex_64_ranks_linear", "r="))[0]
    'Deep LoRA'
    """
    found: Means = {}
    for method in methods_of(name):
        matched = re.fullmatch(f"(.*), {option}([0-9.e-]+)", method)
        if matched:
            found.setdefault(matched[1], {})[float(matched[2])] = scores(name, method)
    return {family: dict(sorted(rows.items())) for family, rows in found.items()}


def spread(rows: Iterable[dict[str, Any]]) -> float:
    """Subtract the smallest mean score from the largest.

    >>> spread([{"mean": 0.5}, {"mean": 0.25}])
    0.25
    """
    means = [row["mean"] for row in rows]
    return max(means) - min(means)
