"""Watch the gradient `G = dL/dW` of adapted layers during a backward pass without ever forming it.

A probe on the output of a layer meets the layer's input and the gradient of its output in the backward pass, where
their products with G are cheap: `G M = delta^T (x M)`. One-pass linear sketches of G turn out useless here (the leading
singular values of real gradients lie within percents of each other: benchmarks/README.md), so the probe builds a block
Krylov space on the spot and keeps the few leading singular triplets of the sum of all calls so far.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class GradientOperator:
    """`G = dL/dW` (rows x columns) of one call of a layer, known by its products with blocks of columns.

    Attributes:
        rows, columns: out and in of the update.
        apply: `M -> G M`, M (columns, k).
        apply_transpose: `M -> G^T M`, M (rows, k).
        product: `() -> G`, for layers that form it more cheaply than by a product with the identity.
    """

    rows: int
    columns: int
    apply: Callable[[Tensor], Tensor]
    apply_transpose: Callable[[Tensor], Tensor]
    product: Callable[[], Tensor] | None = None

    def transpose(self) -> GradientOperator:
        """The same gradient seen from a tied layer whose weight is the transpose."""
        product = self.product
        formed = None if product is None else lambda: product().mT
        return GradientOperator(self.columns, self.rows, self.apply_transpose, self.apply, formed)

    def dense(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "rows columns"]:
        """G itself."""
        if self.product is not None:
            return self.product().to(dtype)
        eye = torch.eye(min(self.rows, self.columns), dtype=dtype, device=device)
        formed = self.apply(eye) if self.columns <= self.rows else self.apply_transpose(eye).mT
        return formed.to(dtype)

    @classmethod
    def from_rows(cls, x: Float[Tensor, "tokens in"], delta: Float[Tensor, "tokens out"]) -> GradientOperator:
        """`G = delta^T x`, in float32 or better.

        >>> x, delta = torch.ones(5, 3), torch.ones(5, 2)
        >>> GradientOperator.from_rows(x, delta).apply(torch.eye(3))
        tensor([[5., 5., 5.],
                [5., 5., 5.]])
        """
        wide = torch.promote_types(torch.promote_types(x.dtype, delta.dtype), torch.float32)
        x, delta = x.to(wide), delta.to(wide)
        return cls(
            rows=delta.shape[1],
            columns=x.shape[1],
            apply=lambda block: delta.mT @ (x @ block.to(wide)),
            apply_transpose=lambda block: x.mT @ (delta @ block.to(wide)),
            product=lambda: delta.mT @ x,
        )


class GradientProbe(torch.autograd.Function):
    """Identity on a layer's output that shows the layer's input and the output's gradient to `record` in backward.

    The input is kept by `save_for_backward`, so activation checkpointing frees and recomputes it as usual. `anchor`
    is a scalar that requires grad: the output then does too, even if nothing else in the model is trainable yet.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, anchor: Tensor, x: Tensor, record: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.record = record
        return output.clone()  # not a view: the caller may overwrite it in place, as ReLU(inplace=True) does

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        with torch.no_grad(), torch.autocast(grad_output.device.type, enabled=False):
            ctx.record(ctx.saved_tensors[0], grad_output)
        return grad_output, None, None, None


def all_finite(*tensors: Tensor) -> bool:
    """Whether there is no NaN and no inf, without large temporaries: a sum carries them on (in float32 or better)."""
    wide = torch.promote_types(torch.float32, functools.reduce(torch.promote_types, [t.dtype for t in tensors]))
    return bool(torch.isfinite(torch.stack([tensor.sum(dtype=wide) for tensor in tensors])).all())
