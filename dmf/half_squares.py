"""Half the sum of squared residuals, where they are observed, with one temporary matrix in each direction."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def half_squares(
    matrix: Float[Tensor, "out in"], target: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"] | None = None
) -> Float[Tensor, ""]:
    """`1/2 sum (f - target)^2` over all entries, or over those where the mask is true.

    The plain operations walk over eight matrices of this size, forward and backward; memory traffic is the whole cost
    of a dense step, so this is one function with the residual as its only temporary.

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
