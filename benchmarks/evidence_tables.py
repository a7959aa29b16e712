"""Tables of the few-shot campaign, for `docs/evidence.md`, made from `benchmarks/results/few_shot_*.json` alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from statistics import fmean
from typing import Any

from markdown_tables import interval, markdown, result
from paired import mean_with_interval

RANKS = (4, 8, 16, 64)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FAMILIES = ("LoRA", "Deep LoRA", "Deep LoRA, core_scale 20/r", "Deep LoRA, core_scale 20/r, init_scale 0.1")
UNTUNED = (*FAMILIES[1:3], "Deep LoRA, start 0.3")  # one configuration and rate on every task
EXPORTED = (UNTUNED[0], UNTUNED[2])
CANDIDATE = "core_scale 20/r"
COMPARISONS = ("simlex_64", "simlex_256", "rotten_tomatoes_64", "rotten_tomatoes_256")
HEADER = [
    "method",
    "rate",
    "more that was chosen",
    "test score, points",
    "difference, points",
    "seeds won",
    "CPU s a run",
]


def methods_of(name: str) -> dict[str, Any]:
    return result(f"few_shot_{name}")["methods"]


def settings_of(name: str) -> dict[str, Any]:
    return result(f"few_shot_{name}")["settings"]


def comparison(name: str) -> str:
    """One row for each method: mean and 95 % interval of the test score in points, and of the paired difference."""
    baseline, rows = settings_of(name)["baseline"], []
    for method, row in methods_of(name).items():
        against = ["", ""]
        if method != baseline:
            against = [interval(row["difference"], 100, 1, "+"), f"{row['seeds_won']} of {row['seeds_compared']}"]
        score, cost = interval(row["test"], 100, 1), f"{row['median_cpu_seconds']:.0f}"
        rows.append([method, f"{row['chosen']['rate']:g}", tuned_fields(name, method), score, *against, cost])
    return markdown(HEADER, rows)


def fresh_seeds() -> str:
    """The variant that the ablation pointed to, on the seeds that the ablation did not see."""
    methods, seen = methods_of("simlex_64"), settings_of("simlex_64_ablations")["methods"][CANDIDATE]["seeds"]
    rows = []
    for method in FAMILIES[1:3]:
        pairs = list(zip(methods[method]["test"]["values"], methods["LoRA, tuned"]["test"]["values"], strict=True))
        gaps = [mine - theirs for mine, theirs in pairs[seen:]]
        won = f"{sum(gap > 0 for gap in gaps)} of {len(gaps)}"
        rows.append([method, interval(mean_with_interval(gaps), 100, 1, "+"), won])
    return markdown(["method", "difference to tuned LoRA, points", "seeds won"], rows)


def together() -> str:
    """Differences to tuned LoRA, averaged over the four settings seed by seed."""
    rows = []
    for method in UNTUNED:
        gaps = []
        for name in COMPARISONS:
            methods = methods_of(name)
            pairs = zip(methods[method]["test"]["values"], methods["LoRA, tuned"]["test"]["values"], strict=False)
            gaps.append([mine - theirs for mine, theirs in pairs])
        means_by_seed = [fmean(seed) for seed in zip(*gaps, strict=False)]
        won = f"{sum(gap > 0 for gap in means_by_seed)} of {len(means_by_seed)}"
        rows.append([method, interval(mean_with_interval(means_by_seed), 100, 1, "+"), won])
    return markdown(["method", "mean difference to tuned LoRA, points", "seeds won"], rows)


def tuned_fields(name: str, method: str) -> str:
    """Fields of the configuration that the sweep decided."""
    changes = settings_of(name)["methods"][method].get("then", [])
    fields = sorted({field for change in changes for field in change})
    chosen = methods_of(name)[method]["chosen"]["config"]
    return ", ".join(f"{field} {chosen[field]}" for field in fields)


def sweeps() -> str:
    """What the choices were made by: mean validation score of every candidate."""
    rows = []
    for name in (*COMPARISONS, "simlex_64_peers"):
        for method, row in methods_of(name).items():
            tried = [f"{label(name, method, c)}: {100 * fmean(c['validation']):.1f}" for c in row["sweep"]]
            if tried and not (name.endswith("peers") and method == settings_of(name)["baseline"]):
                rows.append([f"`{name}`", method, "; ".join(tried)])
    return markdown(["settings", "method", "validation score, points, mean of the sweep's seeds"], rows)


def label(name: str, method: str, candidate: dict[str, Any]) -> str:
    """The rate, and what differs from the configuration that the sweep began with."""
    begun = settings_of(name)["methods"][method]["config"]
    changed = [f"{field} {value}" for field, value in candidate["config"].items() if begun.get(field) != value]
    return ", ".join([f"{candidate['rate']:g}", *changed])


def means(name: str, pattern: str, values: tuple[float, ...]) -> dict[str, dict[float, dict[str, float]]]:
    """Family -> value -> test score with its interval, for the families that were run at all values."""
    methods, measured = methods_of(name), {}
    for family in FAMILIES:
        names = {value: pattern.format(family=family, value=value) for value in values}
        if all(method in methods for method in names.values()):
            measured[family] = {value: methods[method]["test"] for value, method in names.items()}
    return measured


def ranks() -> dict[str, dict[float, dict[str, float]]]:
    return means("simlex_64_ranks", "{family}, r={value}", RANKS)


def rates() -> dict[str, dict[float, dict[str, float]]]:
    return means("simlex_64_rates", "{family}, rate {value:g}", RATES)


def spread(scores: dict[float, dict[str, float]]) -> float:
    """Largest minus smallest mean."""
    values = [score["mean"] for score in scores.values()]
    return max(values) - min(values)


def good_values(scores: dict[float, dict[str, float]], margin: float = 0.01) -> list[float]:
    """The values whose mean is within `margin` of the best.

    >>> good_values({1.0: {"mean": 0.5}, 2.0: {"mean": 0.495}, 3.0: {"mean": 0.4}})
    [1.0, 2.0]
    """
    best = max(score["mean"] for score in scores.values())
    return [value for value, score in scores.items() if score["mean"] >= best - margin]


def rank_table() -> str:
    """Test score at one rate for all ranks."""
    measured = ranks()
    rows = [[family, *(interval(measured[family][r], 100, 1) for r in RANKS), f"{100 * spread(measured[family]):.1f}"]
            for family in measured]  # fmt: skip
    return markdown(["method", *(f"r = {r}" for r in RANKS), "largest minus smallest mean"], rows)


def rate_table() -> str:
    """Test score at rank 8 for all rates."""
    measured, rows = rates(), []
    for family in measured:
        good = good_values(measured[family])
        scores = [interval(measured[family][rate], 100, 1) for rate in RATES]
        rows.append([family, *scores, f"{min(good):g} to {max(good):g}"])
    return markdown(["method", *(f"{rate:g}" for rate in RATES), "rates within a point of the best"], rows)


def export_table() -> str:
    """What `to_lora(tolerance=...)` keeps of 8 ranks, and what the test score loses by it."""
    rows = []
    for name, method in product(COMPARISONS, EXPORTED):
        for export in methods_of(name)[method]["exported"]:
            change = interval(export["test_minus_full"], 100, 2, "+")
            kept = [f"{export['median_rank']:g}", f"{export['max_rank']:g}"]
            rows.append([f"`{name}`", method, f"{export['tolerance']:g}", *kept, change])
    return markdown(
        ["settings", "method", "tolerance", "median kept rank", "largest kept rank", "test score, change in points"],
        rows,
    )


TABLES: dict[str, Callable[[], str]] = {
    **{name: lambda name=name: comparison(name) for name in COMPARISONS},
    "together": together,
    "fresh seeds": fresh_seeds,
    "simlex_64_peers": lambda: comparison("simlex_64_peers"),
    "ranks": rank_table,
    "rates": rate_table,
    "exports": export_table,
    "simlex_64_ablations": lambda: comparison("simlex_64_ablations"),
    "rotten_tomatoes_64_ablations": lambda: comparison("rotten_tomatoes_64_ablations"),
    "sweeps": sweeps,
}
