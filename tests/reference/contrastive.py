"""Slow float64 definitions of the contrastive losses and of the metrics of the modality gap."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import sqrtm


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def row_cross_entropy(scores: np.ndarray, own: int, same: np.ndarray, duplicates: str, smoothing: float) -> float:
    """Of one row, an entry at a time."""
    columns = [j for j in range(len(scores)) if duplicates == "share" or j == own or not same[j]]
    total = math.log(sum(math.exp(scores[j]) for j in columns))
    targets = [own] if duplicates == "exclude" else [j for j in columns if same[j] or j == own]
    on_target = sum(total - scores[j] for j in targets) / len(targets)
    on_all = sum(total - scores[j] for j in columns) / len(columns)
    return (1 - smoothing) * on_target + smoothing * on_all


def contrastive(
    x: np.ndarray, y: np.ndarray, inverse: float, same: np.ndarray, duplicates: str = "share", smoothing: float = 0.0
) -> float:
    scores = inverse * unit(x) @ unit(y).T
    rows = [row_cross_entropy(scores[i], i, same[i], duplicates, smoothing) for i in range(len(x))]
    columns = [row_cross_entropy(scores[:, i], i, same[:, i], duplicates, smoothing) for i in range(len(x))]
    return (sum(rows) + sum(columns)) / (2 * len(x))


def sigmoid(x: np.ndarray, y: np.ndarray, inverse: float, bias: float, same: np.ndarray) -> float:
    scores = inverse * unit(x) @ unit(y).T + bias
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            sign = 1 if i == j or same[i, j] else -1
            total += math.log1p(math.exp(-sign * scores[i, j]))
    return total / len(x)


def margin(x: np.ndarray, y: np.ndarray) -> float:
    z = unit(x) @ unit(y).T
    pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
    return min(min(z[i, i] - z[i, j], z[j, j] - z[i, j]) for i, j in pairs)


def recall(x: np.ndarray, y: np.ndarray, k: int, x_ids: np.ndarray, y_ids: np.ndarray) -> float:
    scores = unit(x) @ unit(y).T
    hits = 0
    for i in range(len(x)):
        nearest = np.argsort(-scores[i], kind="stable")[:k]
        hits += any(y_ids[j] == x_ids[i] for j in nearest)
    return hits / len(x)


def metrics(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Gap, distances, uniformity, effective rank and distribution gap, from all features at once."""
    x, y = unit(x), unit(y)
    both = np.concatenate([x, y])
    mean, covariance = both.mean(0), np.cov(both.T, bias=True)
    root = np.real(sqrtm(covariance))
    width = x.shape[1]
    wasserstein = mean @ mean + 1 + np.trace(covariance) - 2 / math.sqrt(width) * np.trace(root)
    values = np.linalg.svd(both - mean, compute_uv=False)
    share = values[values > 0] / values.sum()
    c_x, c_y = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
    root_x = np.real(sqrtm(c_x))
    bures = np.trace(c_x + c_y - 2 * np.real(sqrtm(root_x @ c_y @ root_x)))
    distances = np.linalg.norm(x - y, axis=1)
    return {
        "gap": float(np.linalg.norm(x.mean(0) - y.mean(0))),
        "paired_distance": float(distances.mean()),
        "alignment": float((distances**2).mean()),
        "uniformity": -math.sqrt(max(wasserstein, 0)),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "distribution_gap": math.sqrt(max(bures, 0)),
    }
