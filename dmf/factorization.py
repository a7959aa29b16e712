"""What all factorizations share, and the wide one: a matrix as a product of full factors."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dmf.functional import STARTS, chain_product
from dmf.observed import check_indices
from dmf.sparse import entry_products


class MatrixFactorization(nn.Module):
    """A matrix of shape (n_out, n_in) as a module; subclasses define its factors.

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
        """Return `left` and `right` with `f = left right^T`."""
        raise NotImplementedError

    def dense(self) -> Float[Tensor, "out in"]:
        """Return the matrix f."""
        left, right = self.two_factors()
        return left @ right.mT

    def entries(self, rows: Int[Tensor, " n"], cols: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the entries (rows[n], cols[n]) of f, for indices in range, without the dense matrix."""
        return entry_products(*self.two_factors(), rows, cols)

    def forward(
        self, rows: Int[Tensor, "*n"] | None = None, cols: Int[Tensor, "*n"] | None = None
    ) -> Float[Tensor, "out in"] | Float[Tensor, "*n"]:
        """Return the dense matrix, or with `rows` and `cols` those entries only, in any order and with repetitions.

        Raises:
            ValueError: if only one of rows and cols is given, their shapes differ, or an index is out of range.
        """
        if rows is None and cols is None:
            return self.dense()
        if rows is None or cols is None:
            raise ValueError("give both rows and cols for single entries, or neither for the dense matrix")
        if rows.shape != cols.shape:
            raise ValueError(f"rows and cols must have the same shape, got {tuple(rows.shape)} and {tuple(cols.shape)}")
        check_indices(rows, cols, (self.n_out, self.n_in))
        return self.entries(rows.reshape(-1), cols.reshape(-1)).reshape(rows.shape)


class DeepMatrixFactorization(MatrixFactorization):
    """A matrix as the product of L factors, `f = W_L ... W_1`.

    Args:
        n_out, n_in: shape of the matrix.
        width: inner dimension of the factors; None takes max(n_out, n_in), the paper's wide factorization.
        depth: L, at least 2.
        init_scale: eps of the start `W_l = eps * Q_l`, positive.
        start: distribution of Q_l. "orthogonal": orthonormal rows or columns, the paper's. "normal", "uniform":
            independent entries whose expected Frobenius norm is that of an orthogonal Q_l (operator norms differ).
        generator, dtype, device: of the random start.

    Attributes:
        factors: W_1, ..., W_L in order of application, W_l of shape (d_l, d_{l-1}).

    Raises:
        ValueError: if a size, the depth or the scale is out of range, or the start is unknown.

    Source: Yaras et al., ICML 2024, the deep matrix factorization; its starts are those of arXiv:2306.01154.

    >>> model = DeepMatrixFactorization(4, 3, width=2, depth=3)
    >>> [tuple(w.shape) for w in model.factors], model().shape
    ([(2, 3), (2, 2), (4, 2)], torch.Size([4, 3]))
    """

    def __init__(
        self,
        n_out: int,
        n_in: int,
        *,
        width: int | None = None,
        depth: int = 3,
        init_scale: float = 1e-3,
        start: str = "orthogonal",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n_out, n_in, init_scale)
        self.depth, self.start = depth, start
        self.width = max(n_out, n_in) if width is None else width
        if self.width < 1 or depth < 2:
            raise ValueError(
                "a deep factorization needs a width of at least 1 and a depth of at least 2, got width "
                f"{self.width} and depth {depth}"
            )
        if start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(map(repr, STARTS))}, got {start!r}")
        widths = [n_in, *[self.width] * (depth - 1), n_out]
        options: dict[str, Any] = {"generator": generator, "dtype": dtype, "device": device}
        self.factors = nn.ParameterList(
            nn.Parameter(init_scale * STARTS[start](rows, columns, **options))
            for columns, rows in zip(widths[:-1], widths[1:], strict=True)
        )

    def dense(self) -> Float[Tensor, "out in"]:
        """Return `W_L ... W_1`."""
        return chain_product(list(self.factors))

    def two_factors(self) -> tuple[Float[Tensor, "out width"], Float[Tensor, "in width"]]:
        """Return `left = W_L ... W_2` and `right = W_1^T`, so that `f = left right^T`."""
        first, *others, last = self.factors
        return _product_from_left([last, *reversed(others)]), first.mT

    def entries(self, rows: Int[Tensor, " n"], cols: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the entries (rows[n], cols[n]) of f, from those rows of `W_L ... W_2` that occur."""
        used, position = torch.unique(rows, return_inverse=True)
        first, *others, last = self.factors
        left = _product_from_left([last.index_select(0, used), *reversed(others)])
        return entry_products(left, first.mT, position, cols)

    def extra_repr(self) -> str:
        """Describe sizes and start for `print(model)`."""
        return (
            f"n_out={self.n_out}, n_in={self.n_in}, width={self.width}, depth={self.depth}, "
            f"init_scale={self.init_scale:g}, start={self.start!r}"
        )


def _product_from_left(factors: list[Tensor]) -> Tensor:
    """Multiply `factors[0] factors[1] ...`, starting with the one that has the fewest rows."""
    return reduce(torch.matmul, factors)
