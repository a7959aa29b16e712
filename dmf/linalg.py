"""Singular values, orthonormal bases and the angles between them, also for maps that are only known by their action."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "FactorSVD",
    "block_krylov_svd",
    "effective_rank",
    "factor_svd",
    "leading_subspaces",
    "orthonormalize",
    "principal_angles",
]

LinearMap = Callable[[Tensor], Tensor]


class FactorSVD(NamedTuple):
    """`left diag(values) right^T` with orthonormal columns and values in descending order."""

    left: Float[Tensor, "out rank"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "in rank"]


def orthonormalize(matrix: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Return an orthonormal basis of the column space (Householder QR)."""
    return torch.linalg.qr(matrix).Q


def principal_angles(a: Float[Tensor, "d k"], b: Float[Tensor, "d k"]) -> Float[Tensor, " k"]:
    """Return the principal angles in radians, largest first, between the spans of two orthonormal bases.

    Their sines are the singular values of `(I - a a^T) b`, which keeps small angles accurate; cosines would not.

    Source: Bjorck and Golub, Mathematics of Computation 27, 1973.

    >>> principal_angles(torch.eye(3)[:, :1], torch.eye(3)[:, 1:2])
    tensor([1.5708])
    """
    return torch.asin(torch.linalg.svdvals(b - a @ (a.mT @ b)).clamp(max=1.0))


def factor_svd(left: Float[Tensor, "out k"], right: Float[Tensor, "in k"]) -> FactorSVD:
    """Compute the SVD of `left right^T` at the cost of its factors: two QRs and a k x k SVD.

    Args:
        left, right: any two matrices with the same number of columns; k may exceed their row counts.

    Returns:
        The thin SVD with min(out, in, k) values.

    >>> svd = factor_svd(torch.tensor([[3.0], [4.0]]), torch.tensor([[2.0]]))
    >>> round(svd.values.item(), 4)
    10.0
    """
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right)
    u, s, vh = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    return FactorSVD(q_left @ u, s, q_right @ vh.mT)


def leading_subspaces(matrix: Float[Tensor, "out in"], rank: int) -> FactorSVD:
    """Compute the `rank` leading singular triplets of a matrix by a full SVD.

    >>> leading_subspaces(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2).values
    tensor([3., 2.])
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return FactorSVD(u[:, :rank], s[:rank], vh[:rank].mT)


def block_krylov_svd(
    apply: LinearMap, apply_transpose: LinearMap, start: Float[Tensor, "in k"], iterations: int
) -> FactorSVD:
    """Compute leading singular triplets of a linear map that is known by its action only, from a block Krylov space.

    The space is spanned by `start, (G^T G) start, ..., (G^T G)^iterations start` and kept orthonormal; the result is
    the SVD of G restricted to it. It takes `iterations + 1` products with the map and `iterations` with its transpose,
    and is at least as accurate as the same number of block power iterations, whose error in the i-th direction is of
    order `(s_{k+1} / s_i)^(2 iterations + 1)`.

    Args:
        apply: `M -> G M` for M (in, k).
        apply_transpose: `M -> G^T M` for M (out, k).
        start: a block of k random columns.
        iterations: number of blocks added to the first, at least 0.

    Returns:
        `k (iterations + 1)` approximate triplets, at most as many as the smaller side of the map.

    Source: Musco and Musco, NeurIPS 2015, algorithm 2 (here for `G^T G`, orthonormalized block by block).

    >>> g = torch.diag(torch.tensor([5.0, 1.0, 0.1]))
    >>> torch.manual_seed(0) and None
    >>> block_krylov_svd(lambda m: g @ m, lambda m: g.T @ m, torch.randn(3, 2), 4).values.round(decimals=3)
    tensor([5.0000, 1.0000, 0.1000])
    """
    block = orthonormalize(start)
    image = apply(block)
    basis, images = block, image
    for _ in range(iterations):
        block = apply_transpose(image)[:, : basis.shape[0] - basis.shape[1]]
        if block.shape[1] == 0:
            break
        # Householder reflections give new orthonormal columns even where the block holds only rounding errors.
        block = orthonormalize(torch.cat([basis, block], dim=1))[:, basis.shape[1] :]
        image = apply(block)
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, image], dim=1)
    return factor_svd(images, basis)


def effective_rank(singular_values: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Return `exp(-sum p_i log p_i)` with `p_i = s_i / sum s`: from 1 to the number of values, 0 if all are zero.

    Args:
        singular_values: nonnegative, in any order, for example `torch.linalg.svdvals(matrix)` or
            `factor_svd(*model.two_factors()).values`.

    Raises:
        ValueError: if a value is negative or not finite.

    Source: Roy and Vetterli, EUSIPCO 2007.

    >>> effective_rank(torch.tensor([[2.0, 2.0, 0.0], [5.0, 0.0, 0.0]]))
    tensor([2., 1.])
    """
    if not bool(((singular_values >= 0) & torch.isfinite(singular_values)).all()):
        raise ValueError("singular values must be finite and not negative; pass eigenvalues as `.abs()`")
    total = singular_values.sum(-1, keepdim=True)
    share = singular_values / torch.where(total > 0, total, 1.0)
    return torch.where(total[..., 0] > 0, torch.exp(torch.special.entr(share).sum(-1)), 0.0)
