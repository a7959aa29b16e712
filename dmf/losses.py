"""Half the mean squared error on all, on masked and on listed entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dmf.observed import ObservedEntries
from dmf.sparse import sampled_product

Average = Literal["observed", "all"]


def dense_loss(matrix: Float[Tensor, "out in"], target: Float[Tensor, "out in"]) -> Float[Tensor, ""]:
    """Return `1/2 mean((f - target)^2)` over all entries.

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
    """Return `1/2 mean((f - target)^2)` over the entries where `mask` is true (or not zero).

    Args:
        matrix: f, dense.
        target: values outside the mask, NaN included, have no influence.
        mask: boolean (fastest) or 0/1; the loss is 0 if it is empty.
        average: "observed" divides by the number of observed entries, so that a learning rate does not depend on
            their share; "all" divides by out * in, as in the paper, whose rates are larger by the inverse share.

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
    """Return `1/2 mean((<left[i], right[j]> - value)^2)` over the observed entries (i, j).

    This is `masked_loss` without the dense matrix: sampled sparse products take O(nnz k) time and
    O(nnz + (out + in) k) memory, forward and backward.

    Args:
        left, right: `model.two_factors()`.
        entries: observed values in the dtype and on the device of the factors. If they have weights w, this is half
            the weighted mean, `1/2 sum(w (<left[i], right[j]> - value)^2) / sum(w)`.
        average: "observed" divides by the number of entries, or the sum of their weights, "all" by out * in (see
            `masked_loss`).

    Raises:
        ValueError: if shapes, dtypes or devices do not match, or `average` is unknown.

    >>> entries = ObservedEntries(torch.tensor([0]), torch.tensor([1]), torch.tensor([3.0]), (2, 2))
    >>> observed_loss(torch.eye(2), torch.eye(2), entries)
    tensor(4.5000)
    """
    residual = sampled_product(left, right, entries.pattern) - entries.values
    weights, total = entries.weights, entries.shape[0] * entries.shape[1]
    if weights is None:
        return 0.5 * residual.square().sum() / _terms(average, lambda: len(entries), total)
    return 0.5 * (weights * residual.square()).sum() / _terms(average, weights.sum, total)


def _terms(average: str, observed: Callable[[], Tensor | int], total: int) -> Tensor | int:
    """Return what the sum is divided by; the observed entries are counted only where they are needed."""
    if average not in ("observed", "all"):
        raise ValueError(f"average must be 'observed' or 'all', got {average!r}")
    return observed() if average == "observed" else total


def _check_shapes(matrix: Tensor, other: Tensor) -> None:
    if matrix.shape != other.shape:
        raise ValueError(
            f"matrix, target and mask must have the same shape, got {tuple(matrix.shape)} and {tuple(other.shape)}"
        )


def half_squares(
    matrix: Float[Tensor, "out in"], target: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"] | None = None
) -> Float[Tensor, ""]:
    """Return `1/2 sum (f - target)^2` over all entries, or over those where the mask is true.

    Memory traffic is the whole cost of a dense step, and plain operations pass over eight matrices of this size,
    forward and backward; here the residual is the only temporary.

    >>> half_squares(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([[True, False]]))
    tensor(0.5000)
    """
    loss, _ = _HalfSquares.apply(matrix, target, mask)
    return loss


def _residual(matrix: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    difference = matrix - target
    return difference if mask is None else torch.where(mask, difference, 0.0)


class _HalfSquares(torch.autograd.Function):
    """Gradient: the residual itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        residual = _residual(matrix, target, mask)
        flat = residual.reshape(-1)
        return 0.5 * torch.dot(flat, flat), residual

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], *inputs)

    @staticmethod
    def backward(ctx: Any, scale: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if scale is None:
            return None, None, None
        residual, matrix, target, mask = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted, and the stored residual has no history
            residual = _residual(matrix, target, mask)
        gradient = residual * scale
        return gradient, -gradient if ctx.needs_input_grad[1] else None, None
