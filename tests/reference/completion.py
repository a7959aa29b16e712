"""Slow definitions behind `MatrixCompletion`, in float64: dense matrices, loops, normal equations."""

from __future__ import annotations

import numpy as np


def nuclear_objective(matrix: np.ndarray, data: np.ndarray, decay: float) -> float:
    """`1/2 sum_observed (W - X)^2 + decay * sum of the singular values of W`; NaN is not observed."""
    residual = np.where(np.isnan(data), 0.0, matrix - np.nan_to_num(data))
    return float(0.5 * (residual**2).sum() + decay * np.linalg.svd(matrix, compute_uv=False).sum())


def soft_impute(data: np.ndarray, decay: float, iterations: int = 2000) -> np.ndarray:
    """Minimize `nuclear_objective` by soft-thresholding the filled matrix until nothing changes.

    Source: Mazumder, Hastie and Tibshirani, JMLR 2010, algorithm 1.
    """
    matrix = np.zeros_like(data)
    for _ in range(iterations):
        u, s, vh = np.linalg.svd(np.where(np.isnan(data), matrix, data), full_matrices=False)
        matrix = (u * np.maximum(s - decay, 0.0)) @ vh
    return matrix


def ridge_biases(data: np.ndarray, decay: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Mean, row and column biases from the normal equations of the ridge regression on indicators."""
    rows, cols = np.nonzero(~np.isnan(data))
    design = np.zeros((len(rows), sum(data.shape)))
    design[np.arange(len(rows)), rows] = 1.0
    design[np.arange(len(rows)), data.shape[0] + cols] = 1.0
    mean = float(data[rows, cols].mean())
    normal = design.T @ design + decay * np.eye(design.shape[1])
    solution = np.linalg.solve(normal, design.T @ (data[rows, cols] - mean))
    return mean, solution[: data.shape[0]], solution[data.shape[0] :]


def feedback(observed: np.ndarray, items: np.ndarray) -> np.ndarray:
    """For each row the sum of the vectors of its observed columns over the square root of their number."""
    result = np.zeros((observed.shape[0], items.shape[1]))
    for i, row in enumerate(observed):
        seen = np.flatnonzero(row)
        for j in seen:
            result[i] += items[j] / np.sqrt(len(seen))
    return result
