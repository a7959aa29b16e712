"""The authors' way to the compressed factors, step by step, in float64 NumPy and with every matrix formed.

The wide chain `W_L ... W_1` (width max(out, in)) is differentiated factor by factor; the directions in which it cannot
move are the intersection of two spans, found as a null space; the subspace in which it moves is what is left over.
Independent of `dmf`: no function is shared. Yaras et al., ICML 2024, and the variant that Deep LoRA uses.
"""

from __future__ import annotations

import numpy as np


def wide_widths(rows: int, columns: int, depth: int) -> list[int]:
    """`d_0, ..., d_L` of the wide chain of a rows x columns matrix."""
    return [columns] + [max(rows, columns)] * (depth - 1) + [rows]


def wide_start(rows: int, columns: int, depth: int, eps: float, rng: np.random.Generator) -> list[np.ndarray]:
    """`W_1, ..., W_L`, each eps times a random matrix with orthonormal rows or columns."""
    widths = wide_widths(rows, columns, depth)
    return [eps * _semi_orthogonal(out, into, rng) for into, out in zip(widths[:-1], widths[1:], strict=True)]


def _semi_orthogonal(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    u, _, vh = np.linalg.svd(rng.standard_normal((rows, columns)), full_matrices=False)
    return u @ vh


def product(factors: list[np.ndarray]) -> np.ndarray:
    """`W_L ... W_1` by explicit loops over the factors."""
    result = np.eye(factors[0].shape[1])
    for factor in factors:
        result = factor @ result
    return result


def factor_gradient(factors: list[np.ndarray], gradient: np.ndarray, index: int) -> np.ndarray:
    """Chain rule: `dL/dW_l = (W_L ... W_{l+1})^T G (W_{l-1} ... W_1)^T` with `G = dL/dW` at the product."""
    above = product(factors[index + 1 :]) if index + 1 < len(factors) else np.eye(factors[-1].shape[0])
    below = product(factors[:index]) if index > 0 else np.eye(factors[0].shape[1])
    return above.T @ gradient @ below.T


def moving_directions(first: np.ndarray, gradient: np.ndarray, half: int, eps: float) -> np.ndarray:
    """Columns that span the row space in which a square `W_1 = first` moves, given `gradient = dL/dW_1`.

    Two sets of directions are still: right singular vectors of the gradient beyond `half`, and the images under
    `W_1^T / eps` of the left ones beyond `half`. What lies in both never moves; its complement has 2 half columns.
    """
    size = first.shape[1]
    u, _, vh = np.linalg.svd(gradient, full_matrices=True)
    still_left = first.T @ u[:, half:] / eps
    still_right = vh[half:].T
    both = np.concatenate([still_left, -still_right], axis=1)
    combinations = _null_space(both)[: still_left.shape[1]]
    assert combinations.shape[1] == size - 2 * half, "the two spans do not meet in general position"
    if size == 2 * half:
        return np.eye(size)
    complete, _, _ = np.linalg.svd(still_left @ combinations, full_matrices=True)
    return complete[:, ::-1][:, : 2 * half]


def _null_space(matrix: np.ndarray) -> np.ndarray:
    _, values, vh = np.linalg.svd(matrix, full_matrices=True)
    cut = values.max() * max(matrix.shape) * np.finfo(np.float64).eps
    return vh[int((values > cut).sum()) :].T


def compressed_factors(
    factors: list[np.ndarray], gradient: np.ndarray, half: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """`left` and `right` of the compressed chain `left (eps I)^L right^T`, from the wide start and `G = dL/dW`.

    On `W_1` if it is square; otherwise `W_L` is, and the transposed chain `W_1^T ... W_L^T` is treated instead.
    """
    start = product(factors) / eps ** len(factors)
    if factors[0].shape[0] == factors[0].shape[1]:
        right = moving_directions(factors[0], factor_gradient(factors, gradient, 0), half, eps)
        return start @ right, right
    transposed = [factor.T for factor in reversed(factors)]
    left = moving_directions(transposed[0], factor_gradient(transposed, gradient.T, 0), half, eps)
    return left, start.T @ left


def projector(basis: np.ndarray) -> np.ndarray:
    """The orthogonal projector on the column space of a basis with independent columns."""
    return basis @ np.linalg.pinv(basis)
