"""The goals of the few-shot campaign, set before it, against what came out."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evidence_tables import (
    BOUNDED,
    BOUNDED_DEEPER,
    BOUNDED_LORA,
    DEEPER,
    LIMITED,
    UNTUNED,
    gaps,
    good_values,
    in_points,
    methods_of,
    ranks,
    rates,
    results,
    spread,
    title,
)  # fmt: skip
from markdown_tables import interval, markdown
from paired import mean_with_interval

GAIN, RANK_SHARE, RANK_SPREAD, RATE_SHARE, KEPT_SHARE = 0.015, 1 / 3, 0.02, 3.0, 0.5
MARGIN = 0.005  # of scores: a mean whose interval ends above minus this is no worse
KINDS = {False: "constant rate", True: "falling rate"}
WIDE = "Deep LoRA, wide, tuned"


def bars() -> str:
    """One row for each goal."""
    constant, falling = [UNTUNED], [UNTUNED, DEEPER, BOUNDED, LIMITED, BOUNDED_LORA]
    over_rates = [rate_insensitivity(family, falling=False) for family in constant]
    over_rates += [rate_insensitivity(family, falling=True) for family in falling]
    rows = [*gains(), *against_wide(), rank_insensitivity(), *over_rates, *exported()]
    return markdown(["goal", "measured", "reached"], rows)


def gains() -> list[list[str]]:
    rows = []
    for name in in_points():
        methods = methods_of(name)
        for method in [method for method in (UNTUNED, DEEPER, BOUNDED, BOUNDED_DEEPER, LIMITED) if method in methods]:
            row = methods[method]
            difference, won = row["difference"], f"{row['seeds_won']} of {row['seeds_compared']} seeds won"
            reached = difference["mean"] >= GAIN and difference["low"] > 0
            goal = f"{title(name)}: {method}, not tuned, gains 1.5 points over tuned LoRA"
            rows.append([goal, f"{interval(difference, 100, 1, '+')}, {won}", answer(reached)])
    return rows


def against_wide() -> list[list[str]]:
    """Paired differences of the compressed form to the wide one."""
    rows = []
    for name in results():
        methods = methods_of(name)
        if {WIDE, UNTUNED} <= methods.keys():
            difference = mean_with_interval(gaps(name, UNTUNED, WIDE))
            goal = f"{title(name)}: compressed is no worse than wide, whose rate is tuned"
            rows.append([goal, interval(difference, 100, 1, "+"), answer(no_worse(difference))])
    return rows or [["compressed is no worse than wide", "not measured", answer(False)]]


def rank_insensitivity() -> list[str]:
    lora, deep = (spread(ranks()[family]) for family in ("LoRA", UNTUNED))
    goal = "r = 4 to 64 at one rate: spread at most a third of LoRA's, and at most 2 points"
    reached = deep <= RANK_SHARE * lora and deep <= RANK_SPREAD
    return [goal, f"Deep LoRA {100 * deep:.1f} points, LoRA {100 * lora:.1f}", answer(reached)]


def rate_insensitivity(family: str, *, falling: bool) -> list[str]:
    """Widths on the logarithmic scale."""
    good = [good_values(rates(falling)[name]) for name in (family, "LoRA")]
    ours, lora = (math.log10(max(values) / min(values)) for values in good)
    mine, its = (f"{min(values):g} to {max(values):g}" for values in good)
    goal = f"{family}, range of {KINDS[falling]}s within a point of the best: three times as wide as LoRA's"
    return [goal, f"{mine}; LoRA {its}", answer(ours > 0 and ours >= RATE_SHARE * lora)]


def exported() -> list[list[str]]:
    """At every tolerance that was measured."""
    rows = []
    for name in in_points():
        row = methods_of(name)[UNTUNED]
        for export in row["exported"]:
            rank, loss = row["chosen"]["config"]["r"], export["test_minus_full"]
            measured = f"median rank {export['median_rank']:g} of {rank}, change {interval(loss, 100, 2, '+')}"
            tolerance, share = export["tolerance"], export["median_rank"] / rank
            goal = f"{title(name)}: the export with tolerance {tolerance:g} keeps at most half of the rank without loss"
            rows.append([goal, measured, answer(share <= KEPT_SHARE and no_worse(loss))])
    return rows


def no_worse(difference: Mapping[str, float]) -> bool:
    """Whether a loss of more than the margin is outside of the interval, so that few seeds prove nothing.

    >>> no_worse({"low": -0.001, "high": 0.0}), no_worse({"low": -0.1, "high": 0.1})
    (True, False)
    """
    return difference["low"] >= -MARGIN


def answer(reached: bool) -> str:
    return "yes" if reached else "no"
