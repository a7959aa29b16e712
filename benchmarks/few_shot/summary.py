"""What the kept runs of one few-shot comparison say: choices, means with intervals, paired differences, curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, Protocol

from training.results.intervals import mean_with_interval

Kept = dict[str, Any]
Row = dict[str, Any]
PARTS = ("validation", "test")


class Comparison(Protocol):
    """What is needed of a campaign whose runs are all finished."""

    settings: dict[str, Any]
    earlier: dict[str, Row]

    def candidates(self, name: str) -> Any: ...
    def chosen(self, name: str) -> Any: ...
    def compared(self, name: str) -> Any: ...
    def twin(self, name: str) -> Row | None: ...
    def validations(self, method: Any, rate: float) -> Any: ...
    def sweep_of(self, method: Any, rate: float) -> Any: ...
    def kept(self, run: Any) -> Any: ...


def summary(campaign: Comparison) -> dict[str, Any]:
    """Summarize for every method what was chosen and why, and its tests against the baseline's on the same seeds.

    Rows of an earlier result stay unchanged, with the environment they were measured in; their differences are computed
    again.
    """
    table = {name: campaign.earlier.get(name) or measured_row(campaign, name) for name in campaign.settings["methods"]}
    baseline = table[campaign.settings["baseline"]]["test"]["values"]
    return {
        "methods": {name: {**row, **differences(row["test"]["values"], baseline)} for name, row in table.items()},
        "cpu_seconds": round(sum(seconds(campaign).values())),
    }


def measured_row(campaign: Comparison, name: str) -> Row:
    """Summarize the kept runs of one method, or repeat the row of one that chose the same."""
    chosen, runs = campaign.chosen(name), [campaign.kept(run) for run in campaign.compared(name)]
    if (twin := campaign.twin(name)) is not None:
        return {**twin, "sweep": sweep(campaign, name)}
    tests = [run["test"] for run in runs]
    return {
        "chosen": described(chosen),
        "sweep": sweep(campaign, name),
        "test": {**rounded(mean_with_interval(tests)), "values": tests},
        "curve": curves(runs),
        "loss": [round(fmean(losses), 6) for losses in zip(*[run["loss"] for run in runs], strict=True)],
        "exported": exports(runs),
        **more(runs),
        "trainable": runs[0]["trainable"],
        "median_cpu_seconds": median(run["cpu_seconds"] for run in runs),
    }


def sweep(campaign: Comparison, name: str) -> list[dict[str, Any]]:
    """Return the validation scores of the choice; empty where nothing was tuned."""
    asked = campaign.settings["methods"][name]
    if len(asked["rates"]) == 1 and not asked.get("then"):
        return []
    return [
        described(candidate) | {"validation": campaign.validations(*candidate)}
        for candidate in campaign.candidates(name)
    ]


def described(candidate: Any) -> dict[str, Any]:
    """Name what a sweep varies: rate, configuration, and batch size where it is not the task's."""
    size = candidate.method.batch_size
    return {"rate": candidate.rate, "config": candidate.method.config, **({"batch_size": size} if size else {})}


def differences(tests: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Compare with the baseline's test scores on the seeds that both have.

    >>> row = differences([0.5, 0.7], [0.25, 0.8, 0.1])
    >>> row["difference"]["mean"], row["seeds_won"], row["seeds_compared"]
    (0.075, 1, 2)
    """
    gaps = [mine - theirs for mine, theirs in zip(tests, baseline, strict=False)]
    return {
        "difference": rounded(mean_with_interval(gaps)),
        "seeds_won": sum(gap > 0 for gap in gaps),
        "seeds_compared": len(gaps),
    }


def curves(runs: Sequence[Kept]) -> list[dict[str, float]]:
    """Average the scores at the measured steps."""
    return [
        {"step": points[0]["step"], **{part: round(fmean(p[part] for p in points), 5) for part in PARTS}}
        for points in zip(*[run["curve"] for run in runs], strict=True)
    ]


def exports(runs: Sequence[Kept]) -> list[dict[str, Any]]:
    """Summarize for every tolerance that all runs have the kept ranks and the change of the test score.

    >>> fine, coarse = ({"tolerance": t, "median_rank": 2.0, "max_rank": 3, "test": 0.5} for t in (0.01, 0.1))
    >>> rows = exports([{"test": 0.5, "exported": [fine]}, {"test": 0.6, "exported": [fine, coarse]}])
    >>> [(row["tolerance"], row["test_minus_full"]["mean"]) for row in rows]
    [(0.01, -0.05)]
    """
    rows = []
    for tolerance in [export["tolerance"] for export in runs[0]["exported"]]:
        at_tolerance = [export for run in runs for export in run["exported"] if export["tolerance"] == tolerance]
        if len(at_tolerance) < len(runs):  # some were first wanted by settings with fewer tolerances
            continue
        losses = [export["test"] - run["test"] for export, run in zip(at_tolerance, runs, strict=True)]
        rows.append(
            {
                "tolerance": tolerance,
                "median_rank": median(export["median_rank"] for export in at_tolerance),
                "max_rank": max(export["max_rank"] for export in at_tolerance),
                "test_minus_full": rounded(mean_with_interval(losses)),
            }
        )
    return rows


def more(runs: Sequence[Kept]) -> dict[str, Any]:
    """Count modules by effective rank, and average the metrics of written texts, if they were recorded.

    >>> more([{"ranks": [1, 8]}, {"ranks": [1, 2]}])
    {'ranks': {'1': 2, '2': 1, '8': 1}}
    """
    found: dict[str, Any] = {}
    if all(run.get("ranks") for run in runs):
        counted = Counter(rank for run in runs for rank in run["ranks"])
        found["ranks"] = {str(rank): counted[rank] for rank in sorted(counted)}
    if all(run.get("written") for run in runs):
        found["written"] = {
            metric: rounded(mean_with_interval([run["written"][metric] for run in runs]))
            for metric in runs[0]["written"]
        }
    return found


def seconds(campaign: Comparison) -> dict[str, float]:
    """Return the CPU seconds of every run, sweeps included, each once, without the rows of an earlier result."""
    spent = {}
    for name in campaign.settings["methods"].keys() - campaign.earlier.keys():
        swept = [run for candidate in campaign.candidates(name) for run in campaign.sweep_of(*candidate)]
        for run in [*swept, *campaign.compared(name)]:
            kept = campaign.kept(run)
            if kept is not None:
                spent[run.key()] = kept["cpu_seconds"]
    return spent


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}
