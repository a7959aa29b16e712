"""What all factorizations share: the dense matrix or single entries, out of a product of factors."""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor, nn

from dmf.observed import check_indices
from dmf.sparse import entry_products


class MatrixFactorization(nn.Module):
    """A matrix of shape (n_out, n_in) as a module; subclasses say how it factors.

    Raises:
        ValueError: if a size is below 1 or init_scale is not a positive finite number.

    >>> MatrixFactorization(0, 3, 0.1)
    Traceback (most recent call last):
    ...
    ValueError: n_out and n_in must be at least 1, got 0 and 3
    """

    def __init__(self, n_out: int, n_in: int, init_scale: float) -> None:
        super().__init__()
        if min(n_out, n_in) < 1:
            raise ValueError(f"n_out and n_in must be at least 1, got {n_out} and {n_in}")
        if not (init_scale > 0 and math.isfinite(init_scale)):
            raise ValueError(f"init_scale must be a positive finite number, got {init_scale}")
        self.n_out, self.n_in, self.init_scale = n_out, n_in, init_scale

    def two_factors(self) -> tuple[Float[Tensor, "out k"], Float[Tensor, "in k"]]:
        """`left` and `right` with `f = left right^T`."""
        raise NotImplementedError

    def dense(self) -> Float[Tensor, "out in"]:
        """The matrix f."""
        left, right = self.two_factors()
        return left @ right.mT

    def entries(self, rows: Int[Tensor, " n"], cols: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The entries (rows[n], cols[n]) of f, for indices in range; nothing of size n_out x n_in is made."""
        return entry_products(*self.two_factors(), rows, cols)

    def forward(
        self, rows: Int[Tensor, "*n"] | None = None, cols: Int[Tensor, "*n"] | None = None
    ) -> Float[Tensor, "out in"] | Float[Tensor, "*n"]:
        """The dense matrix, or with `rows` and `cols` those entries only, in any order and with repetitions.

        Raises:
            ValueError: if only one of rows and cols is given, their shapes differ, or they point outside of the matrix.
        """
        if rows is None and cols is None:
            return self.dense()
        if rows is None or cols is None:
            raise ValueError("give both rows and cols for single entries, or neither for the dense matrix")
        if rows.shape != cols.shape:
            raise ValueError(f"rows and cols must have one shape, got {tuple(rows.shape)} and {tuple(cols.shape)}")
        check_indices(rows, cols, (self.n_out, self.n_in))
        return self.entries(rows.reshape(-1), cols.reshape(-1)).reshape(rows.shape)
