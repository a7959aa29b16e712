"""The deep matrix factorization as it is usually trained: a product of full factors."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dmf.factorization import MatrixFactorization
from dmf.functional import chain_product
from dmf.sparse import entry_products
from dmf.starts import STARTS


class DeepMatrixFactorization(MatrixFactorization):
    """A matrix as the product of L factors, `f = W_L ... W_1`.

    Args:
        n_out, n_in: shape of the matrix.
        width: of the factors in between; None takes max(n_out, n_in), the paper's wide factorization.
        depth: L, at least 2.
        init_scale: eps of the start `W_l = eps * Q_l`, positive.
        start: distribution of Q_l. "orthogonal": orthonormal rows or columns, the paper's. "normal", "uniform":
            independent entries whose expected Frobenius norm is that of an orthogonal Q_l (operator norms differ).
        generator, dtype, device: where the start is drawn from, and what it is.

    Attributes:
        factors: W_1, ..., W_L in order of application, W_l of shape (d_l, d_{l-1}).

    Raises:
        ValueError: for sizes, a depth, a scale or a start out of range.

    Source: Yaras et al., ICML 2024, the deep matrix factorization; the starts of arXiv:2306.01154.

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
        """`W_L ... W_1`."""
        return chain_product(list(self.factors))

    def two_factors(self) -> tuple[Float[Tensor, "out width"], Float[Tensor, "in width"]]:
        """`left = W_L ... W_2` and `right = W_1^T`, so that `f = left right^T`."""
        first, *others, last = self.factors
        return _product_from_left([last, *reversed(others)]), first.mT

    def entries(self, rows: Int[Tensor, " n"], cols: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The entries (rows[n], cols[n]) of f, from those rows of `W_L ... W_2` that occur."""
        used, position = torch.unique(rows, return_inverse=True)
        first, *others, last = self.factors
        left = _product_from_left([last.index_select(0, used), *reversed(others)])
        return entry_products(left, first.mT, position, cols)

    def extra_repr(self) -> str:
        """Sizes and start, for `print(model)`."""
        return (
            f"n_out={self.n_out}, n_in={self.n_in}, width={self.width}, depth={self.depth}, "
            f"init_scale={self.init_scale:g}, start={self.start!r}"
        )


def _product_from_left(factors: list[Tensor]) -> Tensor:
    """`factors[0] factors[1] ...`, starting with the one that has the fewest rows."""
    return reduce(torch.matmul, factors)
