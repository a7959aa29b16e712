"""Chains of matrices `W_L ... W_1`: their product, their action, and their initial values.

A chain is given in the order in which it acts: `factors[0]` is `W_1`, the last one is `W_L`. A stacked tensor of shape
(n, ..., r, r) is a chain too: dimension 0 runs over the factors, further leading dimensions are batch dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "chain_apply",
    "chain_product",
    "identity_chain",
    "matched_normal",
    "matched_uniform",
    "orthogonal",
    "orthogonal_chain",
]

Chain = Sequence[Tensor] | Tensor


def chain_product(factors: Chain) -> Float[Tensor, "*batch out in"]:
    """Return the end-to-end matrix `W_L ... W_1` of a chain.

    Args:
        factors: `W_1, ..., W_L` in order of action, each (..., d_l, d_{l-1}), or a stacked tensor (L, ..., r, r).

    Returns:
        The product, (..., d_L, d_0).

    Raises:
        ValueError: if the chain is empty.

    Source: the model `f = W_L ... W_1` of Yaras et al., ICML 2024.

    >>> chain_product([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])])
    tensor([[3., 6.],
            [4., 8.]])
    """
    if len(factors) == 0:
        raise ValueError("a chain needs at least one factor, got none; pass W_1, ..., W_L in order of action")
    return reduce(lambda product, factor: factor @ product, factors)


def chain_apply(x: Float[Tensor, "*batch in"], factors: Chain) -> Float[Tensor, "*batch out"]:
    """Apply a chain to row vectors: `x W_1^T ... W_L^T`, factor by factor, without forming the product.

    Args:
        x: row vectors, (..., d_0).
        factors: `W_1, ..., W_L` in order of action.

    >>> x, chain = torch.ones(1, 2), [torch.eye(2), 2 * torch.eye(2)]
    >>> torch.equal(chain_apply(x, chain), x @ chain_product(chain).T)
    True
    """
    return reduce(lambda rows, factor: rows @ factor.mT, factors, x)


def orthogonal(
    rows: int,
    columns: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "rows columns"]:
    """Draw a Haar-distributed matrix with orthonormal columns (rows >= columns) or orthonormal rows (otherwise).

    Half precision is drawn in float32 and rounded.

    Source: Mezzadri, Notices of the AMS 54, 2007: a QR factorization whose R has a positive diagonal.

    >>> q = orthogonal(5, 3, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(q.T @ q, torch.eye(3), atol=1e-6)
    True
    """
    dtype = dtype or torch.get_default_dtype()
    working = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    tall = (max(rows, columns), min(rows, columns))
    gaussian_device = generator.device if generator is not None else device
    gaussian = torch.randn(tall, generator=generator, dtype=working, device=gaussian_device)
    q, r = torch.linalg.qr(gaussian)
    q *= torch.sign(torch.diagonal(r))  # makes the distribution Haar: QR alone prefers one sign
    return (q if rows >= columns else q.T).to(device=device, dtype=dtype).contiguous()


def matched_normal(
    rows: int,
    columns: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "rows columns"]:
    """Draw Gaussian entries of variance `min(m, n) / (m n)`.

    The expected squared Frobenius norm is min(m, n), as for a matrix with orthonormal rows or columns. The operator
    norm does not match: it is near 2 for a square matrix, and 1 for an orthogonal one.

    Source: the initializers of Yaras et al., arXiv:2306.01154 (normal, rescaled by `sqrt(d) / sqrt(m n)`).

    >>> w = matched_normal(60, 40, generator=torch.Generator().manual_seed(0))
    >>> 0.9 < (w.square().sum() / 40).item() < 1.1
    True
    """
    gaussian_device = generator.device if generator is not None else device
    gaussian = torch.randn(rows, columns, generator=generator, dtype=dtype, device=gaussian_device)
    return (gaussian * _frobenius_scale(rows, columns)).to(device=device)


def matched_uniform(
    rows: int,
    columns: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "rows columns"]:
    """Draw entries uniform in (-b, b), `b = sqrt(3 min(m, n) / (m n))`: mean, variance and norm of `matched_normal`.

    Source: the initializers of Yaras et al., arXiv:2306.01154 (uniform, with the further factor sqrt(3)).

    >>> w = matched_uniform(60, 40, generator=torch.Generator().manual_seed(0))
    >>> 0.9 < (w.square().sum() / 40).item() < 1.1
    True
    """
    uniform_device = generator.device if generator is not None else device
    uniform = torch.rand(rows, columns, generator=generator, dtype=dtype, device=uniform_device)
    return ((2 * uniform - 1) * (3**0.5 * _frobenius_scale(rows, columns))).to(device=device)


def _frobenius_scale(rows: int, columns: int) -> float:
    return (min(rows, columns) / (rows * columns)) ** 0.5


STARTS: dict[str, Callable[..., Tensor]] = {
    "orthogonal": orthogonal,
    "normal": matched_normal,
    "uniform": matched_uniform,
}


def orthogonal_chain(
    widths: Sequence[int],
    init_scale: float = 1.0,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Draw the factors of a wide chain, each `init_scale` times a random (semi-)orthogonal matrix.

    Args:
        widths: `d_0, d_1, ..., d_L`; factor l has shape (d_l, d_{l-1}).
        init_scale: the eps of the paper, a plain number.

    Raises:
        ValueError: for fewer than two widths.

    Source: Yaras et al., ICML 2024 (`W_l(0) = eps_l * orthogonal`).

    >>> [tuple(w.shape) for w in orthogonal_chain([4, 2, 2, 3])]
    [(2, 4), (2, 2), (3, 2)]
    """
    if len(widths) < 2:
        raise ValueError(f"a chain needs at least two widths (input and output), got {list(widths)}")
    return [
        init_scale * orthogonal(rows, columns, generator=generator, dtype=dtype, device=device)
        for columns, rows in zip(widths[:-1], widths[1:], strict=True)
    ]


def identity_chain(
    depth: int,
    width: int,
    init_scale: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "depth width width"]:
    """Make the cores of a compressed chain, `depth` stacked matrices `init_scale * I`.

    Source: Yaras et al., ICML 2024 (the compressed factors start at `eps I_{2r}`).

    >>> identity_chain(3, 2, 0.5).sum(0)
    tensor([[1.5000, 0.0000],
            [0.0000, 1.5000]])
    """
    eye = torch.eye(width, dtype=dtype, device=device)
    return (init_scale * eye).expand(depth, width, width).clone()
