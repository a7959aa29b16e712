"""Statistics of paired runs: the same seeds for every method, and intervals of the differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.results.intervals import mean_with_interval

Curve = Sequence[tuple[int, float]]
BASELINE = "cross_entropy"


def steps_until(curve: Curve, target: float) -> int | None:
    """Find the first measured step at which a falling metric is at or below the target; None if it never is.

    >>> steps_until([(10, 3.0), (20, 1.0)], 1.0), steps_until([(10, 3.0)], 1.0)
    (20, None)
    """
    return next((step for step, value in curve if value <= target), None)


def compare(
    runs: Mapping[str, Mapping[int, Mapping[str, list[float]]]], baseline: str, falling: str, final: Sequence[str]
) -> dict[str, dict[str, object]]:
    """Compare methods with a baseline on the same seeds.

    Args:
        runs: method -> seed -> metric -> values over steps (with "step" among the metrics).
        baseline: whose last value of `falling` is the target, seed by seed.
        falling: the metric to reach (NC1).
        final: metrics whose last values are compared.

    Returns:
        For each method: steps to the target for each seed, their ratio to all of the baseline's steps (None for
        a seed that never arrives, left out of the mean), last values and their paired differences.
    """
    table: dict[str, dict[str, object]] = {}
    for method, by_seed in runs.items():
        seeds = sorted(set(by_seed) & set(runs[baseline]))
        ratios: list[float | None] = []
        for seed in seeds:
            reference, curve = runs[baseline][seed], by_seed[seed]
            pairs = list(zip(map(int, curve["step"]), curve[falling], strict=True))
            reached = steps_until(pairs, reference[falling][-1])
            ratios.append(None if reached is None else reached / reference["step"][-1])
        arrived = [ratio for ratio in ratios if ratio is not None]
        row: dict[str, object] = {
            "seeds": seeds,
            "steps_to_target_over_baseline": ratios,
            "mean_ratio": mean_with_interval(arrived) if arrived else None,
        }
        for name in final:
            last = [by_seed[seed][name][-1] for seed in seeds]
            gaps = [mine - runs[baseline][seed][name][-1] for mine, seed in zip(last, seeds, strict=True)]
            row[name] = mean_with_interval(last) | {"difference": mean_with_interval(gaps)}
        table[method] = row
    return table
