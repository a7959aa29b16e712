"""Means of a few runs, and how sure they are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from scipy import stats

__all__ = ["mean_with_interval"]


def mean_with_interval(values: Sequence[float], level: float = 0.95) -> dict[str, float]:
    """Compute the mean and Student's interval of the mean (equal bounds for a single value).

    >>> mean_with_interval([1.0, 1.0])
    {'mean': 1.0, 'low': 1.0, 'high': 1.0}
    """
    mean = statistics.fmean(values)
    if len(values) < 2 or max(values) == min(values):
        return {"mean": mean, "low": mean, "high": mean}
    low, high = stats.t.interval(level, len(values) - 1, mean, stats.sem(values))
    return {"mean": mean, "low": float(low), "high": float(high)}
