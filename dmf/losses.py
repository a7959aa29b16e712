"""Half the mean squared error on all, on masked and on listed entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dmf.half_squares import half_squares
from dmf.observed import ObservedEntries
from dmf.sparse import sampled_product

Average = Literal["observed", "all"]


def dense_loss(matrix: Float[Tensor, "out in"], target: Float[Tensor, "out in"]) -> Float[Tensor, ""]:
    """`1/2 mean((f - target)^2)` over all entries.

    Raises:
        ValueError: if the shapes differ.

    Source: Yaras et al., ICML 2024, as a mean instead of a sum: a step eta here is eta / numel there.

    >>> dense_loss(torch.zeros(2, 2), torch.ones(2, 2))
    tensor(0.5000)
    """
    _check_shapes(matrix, target)
    return half_squares(matrix, target) / matrix.numel()


def masked_loss(
    matrix: Float[Tensor, "out in"],
    target: Float[Tensor, "out in"],
    mask: Shaped[Tensor, "out in"],
    *,
    average: Average = "observed",
) -> Float[Tensor, ""]:
    """`1/2 mean((f - target)^2)` over the entries where `mask` is true (or not zero).

    Args:
        matrix: f, dense.
        target: whatever stands outside of the mask, NaN included, has no influence.
        mask: boolean (fastest) or 0/1; the loss is 0 if it is empty.
        average: "observed" divides by the number of observed entries, so that a rate does not depend on their share;
            "all" divides by out * in, as in the paper: its rates are larger by the inverse share.

    Raises:
        ValueError: if the shapes differ, or `average` is unknown.

    Source: Yaras et al., ICML 2024, deep matrix completion, with average="all".

    >>> mask = torch.tensor([[True, False]])
    >>> masked_loss(torch.zeros(1, 2), torch.ones(1, 2), mask), masked_loss(
    ...     torch.zeros(1, 2), torch.ones(1, 2), mask, average="all"
    ... )
    (tensor(0.5000), tensor(0.2500))
    """
    _check_shapes(matrix, target)
    _check_shapes(matrix, mask)
    seen = mask if mask.dtype == torch.bool else mask != 0
    terms = _terms(average, lambda: seen.sum().clamp(min=1), matrix.numel())
    return half_squares(matrix, target, seen) / terms


def observed_loss(
    left: Float[Tensor, "out k"],
    right: Float[Tensor, "in k"],
    entries: ObservedEntries,
    *,
    average: Average = "observed",
) -> Float[Tensor, ""]:
    """`1/2 mean((<left[i], right[j]> - value)^2)` over the observed entries (i, j): `masked_loss` without the matrix.

    O(nnz k) time and O(nnz + (out + in) k) memory, forward and backward, through sampled sparse products.

    Args:
        left, right: `model.two_factors()`.
        entries: observed values in the dtype and on the device of the factors.
        average: "observed" divides by the number of entries, "all" by out * in (see `masked_loss`).

    Raises:
        ValueError: if shapes, dtypes or devices do not belong together, or `average` is unknown.

    >>> entries = ObservedEntries(torch.tensor([0]), torch.tensor([1]), torch.tensor([3.0]), (2, 2))
    >>> observed_loss(torch.eye(2), torch.eye(2), entries)
    tensor(4.5000)
    """
    residual = sampled_product(left, right, entries.pattern) - entries.values
    return 0.5 * residual.square().sum() / _terms(average, lambda: len(entries), entries.shape[0] * entries.shape[1])


def _terms(average: str, observed: Callable[[], Tensor | int], total: int) -> Tensor | int:
    """What the sum is divided by; the observed entries are counted only if they are asked for."""
    if average not in ("observed", "all"):
        raise ValueError(f"average must be 'observed' or 'all', got {average!r}")
    return observed() if average == "observed" else total


def _check_shapes(matrix: Tensor, other: Tensor) -> None:
    if matrix.shape != other.shape:
        raise ValueError(
            f"matrix, target and mask must have one shape, got {tuple(matrix.shape)} and {tuple(other.shape)}"
        )
