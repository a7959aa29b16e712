"""Tables of the few-shot study, for its pages, made from `benchmarks/results/few_shot_*.json` alone."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from benchmarks.few_shot.comparisons import (
    BASELINE,
    BOTH,
    OLD,
    RANK,
    TRACKING,
    UNTUNED,
    Means,
    comparisons,
    family_means,
    good_range,
    kind_of,
    methods_of,
    rank_shares,
    ranked,
    results,
    settings_of,
    spread,
    title,
    writing,
)  # fmt: skip
from benchmarks.markdown import interval, markdown
from benchmarks.result_files import result


def comparison(name: str) -> str:
    """Write one row for each method: its mean test score in points and paired difference, with 95 % intervals."""
    rows = []
    for method, row in methods_of(name).items():
        others = method != settings_of(name)["baseline"]
        difference = interval(row["difference"], 100, 1, "+") if others else ""
        won = f"{row['seeds_won']} of {row['seeds_compared']}" if others else ""
        rate, tuned = f"{row['chosen']['rate']:g}", tuned_fields(name, method)
        score, loss = interval(row["test"], 100, 1), f"{row['loss'][-1]:.4f}"
        rows.append([method, rate, tuned, score, difference, won, loss, f"{row['median_cpu_seconds']:.0f}"])
    header = ["method", "rate", "more that was chosen", "test score, points", "difference, points", "seeds won"]
    return markdown([*header, "last training loss", "CPU s a run"], rows)


def tuned_fields(name: str, method: str) -> str:
    """List the fields of the configuration that the sweep decided, with "as by default" where it kept the default."""
    changes = settings_of(name)["methods"][method].get("then", [])
    fields = sorted({field for change in changes for field in change})
    chosen = methods_of(name)[method]["chosen"]["config"]
    return ", ".join(f"{field} {chosen.get(field, 'as by default')}" for field in fields)


def sweeps() -> str:
    """Write the mean validation score of every candidate, by which the choices were made, each sweep once."""
    rows, seen = [], set()
    for name in results():
        for method, row in methods_of(name).items():
            tried = [f"{label(name, method, c)}: {100 * fmean(c['validation']):.1f}" for c in row["sweep"]]
            line = (str(settings_of(name)["task"]), "; ".join(tried))
            if tried and line not in seen:
                rows.append([title(name), method, line[1]])
            seen.add(line)
    return markdown(["setting", "method", "validation score, points, mean of the sweep's seeds"], rows)


def label(name: str, method: str, candidate: dict[str, Any]) -> str:
    """Name the rate, and what differs from the configuration that the sweep began with."""
    begun = settings_of(name)["methods"][method]["config"]
    changed = [f"{field} {value}" for field, value in candidate["config"].items() if begun.get(field) != value]
    return ", ".join([f"{candidate['rate']:g}", *changed])


def family_table(name: str) -> str:
    """Write test scores over the ranks, with the spread, or over the rates, with the good ones."""
    if kind_of(name) == "ranks":
        last = "largest minus smallest mean, r = 4 to 64"
        return _family_table(family_means(name), "r = {:g}", last, lambda scores: f"{100 * spread(scores):.1f}")
    return _family_table(family_means(name), "{:g}", "rates within a point of the best", good_range)


def _family_table(
    measured: Means, heading: str, last: str, summary: Callable[[dict[float, dict[str, float]]], str]
) -> str:
    values = sorted({value for scores in measured.values() for value in scores})
    rows = [
        [family, *(interval(scores[v], 100, 1) if v in scores else "" for v in values), summary(scores)]
        for family, scores in measured.items()
    ]
    return markdown(["method", *map(heading.format, values), last], rows)


def export_table() -> str:
    """Write how many of 8 ranks `to_lora(tolerance=...)` keeps, and how the test score changes."""
    rows = []
    for name in comparisons():
        for method in (UNTUNED, BOTH, OLD):
            for export in methods_of(name).get(method, {"exported": []})["exported"]:
                change = interval(export["test_minus_full"], 100, 2, "+")
                kept = [f"{export['median_rank']:g}", f"{export['max_rank']:g}"]
                rows.append([title(name), method, f"{export['tolerance']:g}", *kept, change])
    header = ["setting", "method", "tolerance", "median kept rank", "largest kept rank"]
    return markdown([*header, "test score, change in points"], rows)


def effective_ranks() -> str:
    """Write the percentage of modules by the effective rank of their update."""
    rows = []
    for name in ranked():
        for method in (BASELINE, UNTUNED, BOTH, OLD):
            if "ranks" in methods_of(name).get(method, {}):
                shares = [f"{100 * share:.0f}" for share in rank_shares(name, method)]
                rows.append([title(name), method, *shares])
    return markdown(["setting", "method", *(f"rank {rank}" for rank in range(RANK + 1))], rows)


def written() -> str:
    """Write BLEU and ROUGE-L of the texts that the models generate."""
    rows = []
    for name in writing():
        for method, row in methods_of(name).items():
            if "written" in row:
                rows.append([title(name), method, *(interval(score, 1, 1) for score in row["written"].values())])
    return markdown(["setting", "method", "BLEU", "ROUGE-L x 100"], rows)


def tracking() -> str:
    """Write the training loss at some steps, means of ten, and the overlap of wide and compressed."""
    found = result(TRACKING)
    steps = [step for step in found["settings"]["measured_steps"] if step >= 10]
    rows = []
    for method, losses in found["losses"].items():
        windows = [losses[step - 10 : step] for step in steps]
        rows.append([f"loss, {method}", *(f"{sum(window) / len(window):.4f}" for window in windows)])
    for side in ("left", "right", "chance"):
        shares = {point["step"]: point[side] for point in found["overlaps"]}
        name = (
            "share that a random subspace holds" if side == "chance" else f"share of the wide update's {side} vectors"
        )
        rows.append([name, *(f"{shares[step]:.2f}" for step in steps)])
    return markdown(["", *(f"step {step}" for step in steps)], rows)


TABLES: dict[str, Callable[[], str]] = {
    "sweeps": sweeps,
    **{name: lambda name=name: (family_table if kind_of(name) else comparison)(name) for name in results()},
    "exports": export_table,
    "effective ranks": effective_ranks,
    "tracking": tracking,
    **({"written": written} if writing() else {}),
}
