"""The goals of the few-shot study, set before it, against its results."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from benchmarks.few_shot.comparisons import (
    OURS,
    UNTUNED,
    family_means,
    gaps,
    good_range,
    good_values,
    in_points,
    methods_of,
    of_kind,
    results,
    settings_of,
    spread,
    title,
)  # fmt: skip
from benchmarks.markdown import interval, markdown
from benchmarks.paired import mean_with_interval

GAIN, RANK_SHARE, RANK_SPREAD, RATE_SHARE, KEPT_SHARE = 0.015, 1 / 3, 0.02, 3.0, 0.5
SIZES, TASKS = (64, 256), 2  # samples, and tasks for each, that the gain is asked for
MARGIN = 0.005  # of scores: a mean whose interval ends above minus this is no worse
WIDE = "Deep LoRA, wide, tuned"


def goals() -> str:
    """Write one row for each goal and method."""
    rows = [*gains(), *against_wide(), *rank_insensitivity(), *rate_insensitivity(), *exported()]
    return markdown(["goal", "measured", "reached"], rows)


def gains() -> list[list[str]]:
    """Check the gain over tuned LoRA on two tasks at either size; noise and schedules make no other task."""
    rows = []
    for method in OURS:
        names = [name for name in in_points() if method in methods_of(name)]
        won = [name for name in names if gained(methods_of(name)[method]["difference"])]
        tasks: defaultdict[int, set[str]] = defaultdict(set)
        for name in won:
            tasks[settings_of(name)["task"]["samples"]].add(settings_of(name)["task"]["name"])
        shown = [f"{title(name)} {interval(methods_of(name)[method]['difference'], 100, 1, '+')}" for name in won]
        measured = f"in {len(won)} of {len(names)} settings" + (": " if won else "") + "; ".join(shown)
        goal = f"{method}, not tuned: 1.5 points over tuned LoRA on two tasks at 64 and at 256 samples"
        rows.append([goal, measured, answer(all(len(tasks[size]) >= TASKS for size in SIZES))])
    return rows


def gained(difference: Mapping[str, float]) -> bool:
    """Tell whether a difference is large enough and its interval excludes 0.

    >>> gained({"mean": 0.02, "low": 0.001}), gained({"mean": 0.02, "low": -0.001})
    (True, False)
    """
    return difference["mean"] >= GAIN and difference["low"] > 0


def against_wide() -> list[list[str]]:
    """Compare the compressed form with the wide one, seed by seed."""
    rows = []
    for name in results():
        methods = methods_of(name)
        if {WIDE, UNTUNED} <= methods.keys():
            difference = mean_with_interval(gaps(name, UNTUNED, WIDE))
            goal = f"{title(name)}: compressed is no worse than wide, whose rate is tuned"
            rows.append([goal, interval(difference, 100, 1, "+"), answer(no_worse(difference))])
    return rows or [["compressed is no worse than wide", "not measured", answer(False)]]


def rank_insensitivity() -> list[list[str]]:
    """Compare the spread over ranks with that of the steadiest LoRA of a setting."""
    rows = []
    for name in of_kind("ranks"):
        spreads = {family: spread(scores) for family, scores in family_means(name).items()}
        lora = min(value for family, value in spreads.items() if family.startswith("LoRA"))
        for family in [family for family in OURS if family in spreads]:
            goal = f"{family}, {title(name)}: spread from r = 4 to 64 at most a third of LoRA's, and at most 2 points"
            measured = f"{100 * spreads[family]:.1f} points, LoRA {100 * lora:.1f}"
            reached = spreads[family] <= RANK_SHARE * lora and spreads[family] <= RANK_SPREAD
            rows.append([goal, measured, answer(reached)])
    return rows


def rate_insensitivity() -> list[list[str]]:
    """Compare the widths of the ranges of good rates, on the logarithmic scale."""
    rows = []
    for name in of_kind("rates"):
        found = family_means(name)
        lora = width(found["LoRA"])
        for family in [family for family in OURS if family in found]:
            goal = f"{family}, {title(name)}: range within a point of the best three times as wide as LoRA's"
            measured = f"{good_range(found[family])}; LoRA {good_range(found['LoRA'])}"
            rows.append(
                [goal, measured, answer(width(found[family]) > 0 and width(found[family]) >= RATE_SHARE * lora)]
            )
    return rows


def width(scores: dict[float, dict[str, float]]) -> float:
    """Count decades from the smallest to the largest good value.

    >>> width({0.01: {"mean": 0.5}, 1.0: {"mean": 0.5}, 10.0: {"mean": 0.1}})
    2.0
    """
    values = good_values(scores)
    return math.log10(max(values) / min(values))


def exported() -> list[list[str]]:
    """Check exports at every tolerance that was measured, over the settings."""
    found: defaultdict[float, list[dict[str, Any]]] = defaultdict(list)
    for row in [methods_of(name)[UNTUNED] for name in in_points()]:
        for export in row["exported"]:
            found[export["tolerance"]].append(export | {"of": row["chosen"]["config"]["r"]})
    rows = []
    for tolerance, exports in sorted(found.items()):
        kept = [export["median_rank"] for export in exports]
        changes = [100 * export["test_minus_full"]["mean"] for export in exports]
        reached = [e["median_rank"] <= KEPT_SHARE * e["of"] and no_worse(e["test_minus_full"]) for e in exports]
        goal = f"{UNTUNED}: the export with tolerance {tolerance:g} keeps at most half of the rank without loss"
        measured = f"in {sum(reached)} of {len(exports)} settings; median rank {min(kept):g} to {max(kept):g} of "
        measured += f"{exports[0]['of']}, change {min(changes):+.2f} to {max(changes):+.2f} points"
        rows.append([goal, measured, answer(all(reached))])
    return rows


def no_worse(difference: Mapping[str, float]) -> bool:
    """Tell whether the interval excludes a loss of more than the margin, so that few seeds prove nothing.

    >>> no_worse({"low": -0.001, "high": 0.0}), no_worse({"low": -0.1, "high": 0.1})
    (True, False)
    """
    return difference["low"] >= -MARGIN


def answer(reached: bool) -> str:
    return "yes" if reached else "no"
