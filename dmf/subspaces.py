"""Outer factors of a compressed factorization, from the first gradient in the forms in which it comes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dmf.functional import chain_apply
from dmf.linalg import FactorSVD, OrthogonalMap, block_krylov_svd, compressed_bases, leading_subspaces
from dmf.observed import ObservedEntries
from dmf.sparse import sparse_product

EXACT_SIDE = 1500  # below, a full SVD costs seconds at most
OVERSAMPLING = 8
ITERATIONS = 4

Bases = tuple[Float[Tensor, "out rank"], Float[Tensor, "in rank"]]


def bases_from_wide(
    factors: Sequence[Tensor], init_scale: float, weight_gradient: Float[Tensor, "out in"], rank: int
) -> Bases:
    """U and V of the compressed factorization that follows a wide chain from its orthogonal start.

    Args:
        factors: W_1, ..., W_L at the start, each `init_scale` times orthogonal.
        init_scale: eps.
        weight_gradient: `dL/d(W_L ... W_1)` at the start.
        rank: even number of columns of U and V.

    Raises:
        ValueError: for a rank that is odd or does not fit, a gradient of another shape, not finite or zero, or factors
            that are not `init_scale` times orthogonal.

    Source: Yaras et al., ICML 2024, the compressed factorization; see `dmf.compressed_bases`.
    """
    shape = (factors[-1].shape[0], factors[0].shape[1])
    if tuple(weight_gradient.shape) != shape:
        raise ValueError(
            f"weight_gradient must be the gradient with respect to the product, of shape {shape}, got "
            f"{tuple(weight_gradient.shape)}"
        )
    _check_rank(rank, shape)
    _check_gradient(weight_gradient)
    svd = _leading(weight_gradient, rank // 2)
    scaled = [factor / init_scale for factor in factors]
    adjoint = [factor.mT for factor in reversed(scaled)]
    _check_orthogonal(chain_apply(svd.right.mT, scaled) if shape[0] > shape[1] else chain_apply(svd.left.mT, adjoint))
    return compressed_bases(
        svd.left, svd.right, lambda m: chain_apply(m.mT, scaled).mT, lambda m: chain_apply(m.mT, adjoint).mT
    )


def bases_from_entries(entries: ObservedEntries, rank: int, seed: int) -> Bases:
    """U and V for the squared error on observed entries, from products with a sparse matrix only.

    At a start of size eps^L the residual is minus the data up to eps^L, so the sparse data matrix spans what the
    gradient spans (the sign changes no subspace). The wide start is a seeded implicit orthogonal map.

    Args:
        entries: the data.
        rank: even number of columns of U and V.
        seed: of the orthogonal map and of the random test vectors.

    Raises:
        ValueError: for a rank that is odd or does not fit, or values that are all zero.

    Source: Yaras et al., ICML 2024; the implicit start is ours.
    """
    _check_rank(rank, entries.shape)
    _check_gradient(entries.values)
    width = min(rank // 2 + OVERSAMPLING, *entries.shape)
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(entries.shape[1], width, dtype=entries.values.dtype, generator=generator)
    svd = block_krylov_svd(
        lambda m: sparse_product(entries.values, m, entries.pattern),
        lambda m: sparse_product(entries.values, m, entries.pattern, transposed=True),
        block.to(entries.values.device),
        ITERATIONS,
    )
    start = OrthogonalMap(*entries.shape, seed)
    return compressed_bases(svd.left[:, : rank // 2], svd.right[:, : rank // 2], start, start.transpose)


def _leading(gradient: Tensor, half: int) -> FactorSVD:
    if min(gradient.shape) <= EXACT_SIDE:
        return leading_subspaces(gradient, half)
    width = min(half + OVERSAMPLING, *gradient.shape)
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(gradient.shape[1], width, dtype=gradient.dtype, generator=generator).to(gradient.device)
    svd = block_krylov_svd(lambda m: gradient @ m, lambda m: gradient.mT @ m, block, ITERATIONS)
    return FactorSVD(svd.left[:, :half], svd.values[:half], svd.right[:, :half])


def _check_rank(rank: int, shape: tuple[int, int]) -> None:
    if rank < 2 or rank % 2:
        raise ValueError(
            f"rank must be even and positive (half of it comes from each side of the gradient), got {rank}; use "
            f"{max(2, rank + 1)}"
        )
    small, large = sorted(shape)
    if rank > large or rank // 2 > small:
        raise ValueError(
            f"rank {rank} is too large for a matrix of {shape[0]} x {shape[1]}: it may be at most "
            f"{min(large - large % 2, 2 * small)}"
        )


def _check_gradient(entries: Tensor) -> None:
    if not bool(torch.isfinite(entries).all()):
        raise ValueError("the gradient has NaN or infinite entries; check the data and the loss")
    if not bool(entries.any()):
        raise ValueError("the first gradient is zero (all data are zero or already fitted), so it spans no subspace")


def _check_orthogonal(images: Float[Tensor, "half d"]) -> None:
    """The start must be an isometry on the directions that matter."""
    gram = images @ images.mT
    error = (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max().item()
    if not error <= 1e-3:
        raise ValueError(
            f"the wide factorization is not at an orthogonal start of scale init_scale (off by {error:.1e}); make "
            "it with start='orthogonal' and width at least max(n_out, n_in), and compress it before training"
        )
