"""Labeled features, their statistics in batches, and what it means that two statistics are the same."""

from __future__ import annotations

import numpy as np
import torch

from collapse import ClassStatistics
from tests.reference import collapse_metrics as slow

EPS = torch.finfo(torch.float64).eps


def labeled(samples=60, classes=4, features=5, seed=0, scale=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    rows = offset + scale * (rng.normal(size=(classes, features))[labels] + rng.normal(size=(samples, features)))
    return slow.Labeled(rows, labels, rng.normal(size=(classes, features)))


def collected(data, order=None, batch=7, within="full", classes=None, dtype=torch.float64):
    order = np.arange(len(data.labels)) if order is None else order
    statistics = ClassStatistics(classes or len(data.weight), data.features.shape[1], within=within)
    for part in np.split(order, range(batch, len(order), batch)):
        statistics.update(torch.tensor(data.features[part], dtype=dtype), torch.tensor(data.labels[part]))
    return statistics


def assert_same(left, right, scale=1.0, terms=1000):
    """Equal up to rounding of `terms` float64 additions at the given scale of the features."""
    assert torch.equal(left.counts, right.counts)
    for name, power in (("means", 1), ("squared_deviations", 2), ("norm_mean", 1), ("norm_deviation", 2)):
        assert (getattr(left, name) - getattr(right, name)).abs().max() <= terms * EPS * scale**power, name
    if left.within_scatter is not None:
        assert (left.within_scatter - right.within_scatter).abs().max() <= terms * EPS * scale**2
