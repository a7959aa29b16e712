"""Small matrices for the tests of `MatrixCompletion`."""

from __future__ import annotations

import numpy as np


def low_rank(rows: int = 30, columns: int = 20, rank: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))


def with_missing(matrix: np.ndarray, missing: float = 0.4, seed: int = 1) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(matrix.shape) < missing, np.nan, matrix)


def ratings(rows: int = 30, columns: int = 20, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    """Biases, a low-rank part and noise, 40 % missing."""
    rng = np.random.default_rng(seed)
    biases = 3.5 + 0.5 * rng.standard_normal((rows, 1)) + 0.5 * rng.standard_normal(columns)
    whole = biases + 0.7 * low_rank(rows, columns, 2, seed) + noise * rng.standard_normal((rows, columns))
    return with_missing(whole, seed=seed + 1)


def triplets(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, cols = np.nonzero(~np.isnan(matrix))
    return rows, cols, matrix[rows, cols]
