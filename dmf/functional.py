"""Chains of matrices `W_L ... W_1`: their product, their action, and how they start.

A chain is given in the order in which it acts: `factors[0]` is `W_1`, the last one is `W_L`. A stacked tensor of shape
(n, ..., r, r) is a chain too (dimension 0 runs over the factors, further leading dimensions are batch dimensions).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

Chain = Sequence[Tensor] | Tensor


def chain_product(factors: Chain) -> Float[Tensor, "*batch out in"]:
    """The end-to-end matrix `W_L ... W_1` of a chain.

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
    """A random matrix with orthonormal columns (rows >= columns) or orthonormal rows (otherwise), Haar distributed.

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


def orthogonal_chain(
    widths: Sequence[int],
    init_scale: float = 1.0,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """The start of a deep factorization: every factor is `init_scale` times a random (semi-)orthogonal matrix.

    Args:
        widths: `d_0, d_1, ..., d_L`; factor l has shape (d_l, d_{l-1}).
        init_scale: the eps of the paper, a plain number.

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
    """The start of a compressed chain: `depth` stacked cores `init_scale * I`.

    Source: Yaras et al., ICML 2024 (the compressed factors start at `eps I_{2r}`).

    >>> identity_chain(3, 2, 0.5).sum(0)
    tensor([[1.5000, 0.0000],
            [0.0000, 1.5000]])
    """
    eye = torch.eye(width, dtype=dtype, device=device)
    return (init_scale * eye).expand(depth, width, width).clone()
