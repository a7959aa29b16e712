"""The gradient `G = dL/dW` of a layer as its products with thin matrices, without ever forming it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
        """Return the same gradient seen from a tied layer whose weight is the transpose."""
        product = self.product
        formed = None if product is None else lambda: product().mT
        return GradientOperator(self.columns, self.rows, self.apply_transpose, self.apply, formed)

    def dense(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "rows columns"]:
        """Form G itself."""
        if self.product is not None:
            return self.product().to(dtype)
        eye = torch.eye(min(self.rows, self.columns), dtype=dtype, device=device)
        formed = self.apply(eye) if self.columns <= self.rows else self.apply_transpose(eye).mT
        return formed.to(dtype)

    @classmethod
    def from_rows(cls, x: Float[Tensor, "tokens in"], delta: Float[Tensor, "tokens out"]) -> GradientOperator:
        """Make the operator of `G = delta^T x`, in float32 or better.

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
