"""The metrics of neural collapse as they are written down, in float64 NumPy, sample by sample and class by class."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Labeled(NamedTuple):
    """Features (N, d), labels (N,), classifier rows (K, d)."""

    features: np.ndarray
    labels: np.ndarray
    weight: np.ndarray

    @property
    def classes(self) -> list[int]:
        return sorted(set(self.labels.tolist()))

    def mean(self, label: int) -> np.ndarray:
        return self.features[self.labels == label].mean(0)


@cache
def recorded(case: int) -> tuple[Labeled, np.ndarray]:
    """A case of the authors' run, and their NC1, NC2, NC3."""
    with np.load(Path(__file__).parent / "recorded" / "collapse.npz") as file:
        arrays = [file[f"case{case}/{name}"] for name in ("features", "labels", "weight", "nc")]
    return Labeled(*arrays[:3]), arrays[3]


def within_scatter(data: Labeled) -> np.ndarray:
    total = np.zeros((data.features.shape[1],) * 2)
    for row, label in zip(data.features, data.labels, strict=True):
        total += np.outer(row - data.mean(label), row - data.mean(label))
    return total


def between_covariance(data: Labeled, global_mean: str = "samples") -> np.ndarray:
    means = np.stack([data.mean(label) for label in data.classes])
    center = data.features.mean(0) if global_mean == "samples" else means.mean(0)
    return sum(np.outer(mean - center, mean - center) for mean in means) / len(means)


def nc1(data: Labeled, global_mean: str = "samples", rcond: float = 1e-12) -> float:
    covariance = within_scatter(data) / len(data.labels)
    inverse = np.linalg.pinv(between_covariance(data, global_mean), rcond=rcond, hermitian=True)
    return np.trace(covariance @ inverse) / len(data.classes)


def quotient(data: Labeled) -> float:
    return np.trace(within_scatter(data)) / len(data.labels) / np.trace(between_covariance(data))


def simplex_distance(weight: np.ndarray, other: np.ndarray) -> float:
    product = weight @ other.T
    num_classes = len(weight)
    target = (np.eye(num_classes) - np.ones((num_classes,) * 2) / num_classes) / np.sqrt(num_classes - 1)
    return np.linalg.norm(product / np.linalg.norm(product) - target)


def nc3(data: Labeled, centerd: bool = False) -> float:
    means = np.stack([data.mean(label) for label in data.classes])
    if centerd:
        means = means - data.features.mean(0)
    return simplex_distance(data.weight[data.classes], means)


def nc4(data: Labeled, predictions: np.ndarray) -> float:
    hits = 0
    for row, predicted in zip(data.features, predictions, strict=True):
        nearest = min(data.classes, key=lambda label: np.linalg.norm(row - data.mean(label)))
        hits += nearest == predicted
    return hits / len(data.labels)


def cdnv(data: Labeled) -> float:
    def variance(label: int) -> float:
        rows = data.features[data.labels == label]
        return np.mean([np.sum((row - data.mean(label)) ** 2) for row in rows])

    pairs = list(permutations(data.classes, 2))
    terms = [(variance(i) + variance(j)) / (2 * np.sum((data.mean(i) - data.mean(j)) ** 2)) for i, j in pairs]
    return float(np.mean(terms))


def norm_spread(data: Labeled) -> float:
    norms = [np.linalg.norm(row) for row in data.features]
    return np.std(norms) / np.mean(norms)
