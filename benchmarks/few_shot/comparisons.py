"""The results of the few-shot study: which settings there are, their methods' scores, and paired differences."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.result_files import RESULTS, SETTINGS, result

BASELINE, UNTUNED = "LoRA, tuned", "Deep LoRA"
BOTH, OLD, UNTUNED_BASELINE = "Deep LoRA, both sides", "Deep LoRA, start 1e-3", "LoRA, not tuned"
DEEPER, OTHER_RATES = "Deep LoRA, depth 5", ("LoRA, not tuned, 3e-4", "LoRA, not tuned, 3e-3")
ONE_RATE = (UNTUNED_BASELINE, *OTHER_RATES)
RULED, RULED_BASELINE = "Deep LoRA, step rule", "LoRA, step rule"
NO_GUARD, CUBED = "Deep LoRA, path 0.12, no guard", "Deep LoRA, path 0.24, cubed guard"  # earlier rules
OURS = (UNTUNED, DEEPER)  # with one rate for all settings
LOSSES = ("e2e", "glosses")  # tasks whose score is minus a loss, not a share of something
FAMILIES = {"ranks": "r=", "rates": "rate "}  # kinds of settings that compare values of one option, and its name there
FALLING = "_linear"  # how the settings end in which all rates fall to 0
SEEDS = 10  # of a setting that counts in a mean over settings
COMPARED_RANKS = (4, 64)
RANK = 8  # of the adapters whose effective ranks are shown
TRACKING = "tracking_wide"  # the result on how the compressed form follows the wide one
Means = dict[str, dict[float, dict[str, float]]]


def methods_of(name: str) -> dict[str, Any]:
    return result(f"few_shot_{name}")["methods"]


def settings_of(name: str) -> dict[str, Any]:
    return result(f"few_shot_{name}")["settings"]


def results() -> list[str]:
    """List all settings with a result, in their order, without the main job's own file."""
    paths = SETTINGS.glob("few_shot_*.json")
    settings = [path.stem.removeprefix("few_shot_") for path in paths if (RESULTS / path.name).is_file()]
    return sorted(settings, key=lambda name: (settings_of(name)["order"], name))


def comparisons(falling: bool | None = None) -> list[str]:
    """List the settings that compare the default Deep LoRA with tuned LoRA: all, or those with one kind of schedule."""
    needed = {BASELINE, UNTUNED, UNTUNED_BASELINE}
    return [
        name
        for name in results()
        if settings_of(name)["baseline"] == BASELINE
        and needed <= methods_of(name).keys()
        and falling in (None, name.endswith(FALLING))
    ]


def in_points(falling: bool | None = None) -> list[str]:
    """List those of them whose score is a correlation or an accuracy."""
    return [name for name in comparisons(falling) if settings_of(name)["task"]["name"] not in LOSSES]


def with_enough_seeds(falling: bool) -> list[str]:
    """List those of them with as many seeds as a mean over settings needs."""
    return [name for name in in_points(falling) if methods_of(name)[UNTUNED]["seeds_compared"] >= SEEDS]


def averaged(falling: bool) -> list[str]:
    """List those of them in which LoRA ran at all of its single rates, if the rates fall."""
    return [name for name in with_enough_seeds(falling) if not falling or set(ONE_RATE) <= methods_of(name).keys()]


def title(name: str) -> str:
    text: str = settings_of(name)["title"]
    return text


def gaps(name: str, method: str, other: str) -> list[float]:
    """Subtract another method's test score from a method's, seed by seed."""
    mine, theirs = (methods_of(name)[which]["test"]["values"] for which in (method, other))
    return [ours - its for ours, its in zip(mine, theirs, strict=False)]


def families(name: str, separator: str) -> Means:
    """Map family -> value -> test score with its interval, for methods that are named by both."""
    found: Means = {}
    for method, row in methods_of(name).items():
        matched = re.fullmatch(f"(.*), {separator}([0-9.e-]+)", method)
        if matched:
            found.setdefault(matched[1], {})[float(matched[2])] = row["test"]
    return {family: dict(sorted(scores.items())) for family, scores in found.items()}


def kind_of(name: str) -> str | None:
    """Tell whether a setting compares ranks or rates.

    >>> kind_of("simlex_64_rates_linear"), kind_of("simlex_64_linear")
    ('rates', None)
    """
    return next((kind for kind in FAMILIES if name.removesuffix(FALLING).endswith(f"_{kind}")), None)


def of_kind(kind: str) -> list[str]:
    """List the settings that compare ranks, or rates."""
    return [name for name in results() if kind_of(name) == kind]


def family_means(name: str) -> Means:
    """Return the families of a setting that compares ranks or rates."""
    return families(name, FAMILIES[str(kind_of(name))])


def spread(scores: dict[float, dict[str, float]]) -> float:
    """Subtract the smallest mean over the compared ranks from the largest."""
    low, high = COMPARED_RANKS
    values = [score["mean"] for rank, score in scores.items() if low <= rank <= high]
    return max(values) - min(values)


def good_values(scores: dict[float, dict[str, float]], margin: float = 0.01) -> list[float]:
    """List the values whose mean is within `margin` of the best.

    >>> good_values({1.0: {"mean": 0.5}, 2.0: {"mean": 0.495}, 3.0: {"mean": 0.4}})
    [1.0, 2.0]
    """
    best = max(score["mean"] for score in scores.values())
    return [value for value, score in scores.items() if score["mean"] >= best - margin]


def good_range(scores: dict[float, dict[str, float]]) -> str:
    """Write the smallest and the largest of the good values.

    >>> good_range({1.0: {"mean": 0.5}, 2.0: {"mean": 0.495}, 3.0: {"mean": 0.4}})
    '1 to 2'
    >>> good_range({1.0: {"mean": 0.5}, 2.0: {"mean": 0.4}})
    '1 only'
    """
    values = good_values(scores)
    return f"{min(values):g} to {max(values):g}" if len(values) > 1 else f"{values[0]:g} only"


def ranked() -> list[str]:
    """List the settings whose runs recorded the effective rank of every module, for both methods."""
    return [name for name in comparisons() if all("ranks" in methods_of(name)[m] for m in (BASELINE, UNTUNED))]


def rank_shares(name: str, method: str) -> list[float]:
    """Compute the shares of modules with effective rank 0, 1, ... 8."""
    counts = methods_of(name)[method]["ranks"]
    total = sum(counts.values())
    return [counts.get(str(rank), 0) / total for rank in range(RANK + 1)]


def writing() -> list[str]:
    """List the settings whose models write."""
    return [name for name in comparisons() if any("written" in row for row in methods_of(name).values())]
