"""The simplex ETF, and how far a Gram matrix is from it, with and without forming it.

    distance(W, M) = | W M^T / |W M^T|_F - T |_F,   T = (I_K - 1 1^T / K) / sqrt(K - 1)      (rows are classes)

NC2 is distance(W, W) and NC3 is distance(W, class means), as in the authors' code for Yaras et al., NeurIPS 2022 (there
with classes as columns). The dense route forms the K x K matrix. The moments route needs d x d matrices only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

TILE_ROWS = 4096
# 2 K^2 d operations against about 6 K d^2 + 10 d^3: they cross at four to five classes for each dimension.
DENSE_CLASSES_PER_DIMENSION = 4


class PairMoments(NamedTuple):
    """Sums over classes of `W = C + 1 mean^T` and `M = alpha C + D + 1 other_mean^T`, with C and D centered.

    D is what of M is not along C, and is formed row by row: nothing cancels where M is close to a multiple of W.
    """

    num_classes: int
    mean: Float[Tensor, " d"]
    other_mean: Float[Tensor, " d"]
    alpha: float
    gram: Float[Tensor, "d d"]  # C^T C
    cross: Float[Tensor, "d d"]  # C^T D
    rest: Float[Tensor, "d d"]  # D^T D


def simplex_vectors(num_classes: int, num_features: int, seed: int = 0) -> Float[Tensor, "K d"]:
    """Return the corners of a simplex ETF: K unit rows with cosines of -1 / (K - 1), in a random orientation.

        M = sqrt(K / (K - 1)) B Q,   B B^T = I_K - 1 1^T / K,   Q Q^T = I_{K-1}

    Args:
        num_classes: K, at least 2.
        num_features: d, at least K - 1.
        seed: of the orientation; the same numbers on every machine with the same LAPACK.

    Raises:
        ValueError: for sizes out of range.

    Source: Papyan, Han and Donoho, PNAS 2020 (the simplex equiangular tight frame).

    >>> corners = simplex_vectors(3, 2)
    >>> (corners @ corners.mT).mul(2).round().int().tolist()
    [[2, -1, -1], [-1, 2, -1], [-1, -1, 2]]
    """
    for name, value, least in (("num_classes", num_classes, 2), ("num_features", num_features, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` of a simplex must be an integer of at least {least}, got {value!r}")
    if num_features < num_classes - 1:
        raise ValueError(
            f"a simplex of {num_classes} classes needs at least {num_classes - 1} features, got {num_features}; widen "
            "the features, or train the class vectors (`NormalizedClassifier`)"
        )
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(num_features, num_classes - 1, generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(draws)[0].mT
    # Helmert's basis of what is orthogonal to the ones: column j is (1, ..., 1, -j, 0, ..., 0) / sqrt(j (j + 1)).
    place = torch.arange(1, num_classes, dtype=torch.float64)
    basis = torch.ones(num_classes, num_classes - 1, dtype=torch.float64).triu_()
    basis.diagonal(-1).copy_(-place)
    basis /= (place * (place + 1)).sqrt()
    return (math.sqrt(num_classes / (num_classes - 1)) * basis @ axes).float()


def simplex_distance(
    weight: Float[Tensor, "K d"], other: Float[Tensor, "K d"] | None = None, offset: Float[Tensor, " d"] | None = None
) -> float:
    """Compute the distance of `W (M - 1 offset^T)^T`, scaled to norm 1, from the simplex ETF; between 0 and 2.

    This uses the cheaper of `dense_simplex_distance` and `moments_simplex_distance`, which agree up to rounding.

    Args:
        weight: W, one row for each class, K >= 2.
        other: M; W itself when None.
        offset: a row to subtract from M (its global mean, for centered means).

    Raises:
        ValueError: for fewer than two classes, shapes that differ, or a product that is zero or not finite.

    >>> round(simplex_distance(torch.eye(3)), 4), round(simplex_distance(torch.eye(3) - 1 / 3), 4)
    (0.6058, 0.0)
    """
    num_classes, dimension = weight.shape
    if num_classes <= DENSE_CLASSES_PER_DIMENSION * dimension:
        return dense_simplex_distance(weight, other, offset)
    return moments_simplex_distance(weight, other, offset)


@torch.no_grad()
def dense_simplex_distance(
    weight: Float[Tensor, "K d"], other: Float[Tensor, "K d"] | None = None, offset: Float[Tensor, " d"] | None = None
) -> float:
    """Compute `simplex_distance` from the K x K matrix, in float64."""
    _check_pair(weight, other)
    left = weight.double()
    right = left if other is None else other.double().to(left.device)
    product = left @ (right if offset is None else right - offset.to(right)).mT
    product /= _checked_norm(torch.linalg.matrix_norm(product).item())
    num_classes = len(product)
    product += 1 / (num_classes * math.sqrt(num_classes - 1))
    product.diagonal().sub_(1 / math.sqrt(num_classes - 1))
    return torch.linalg.matrix_norm(product).item()


@torch.no_grad()
def moments_simplex_distance(
    weight: Float[Tensor, "K d"],
    other: Float[Tensor, "K d"] | None = None,
    offset: Float[Tensor, " d"] | None = None,
    *,
    tile_rows: int = TILE_ROWS,
) -> float:
    """Compute `simplex_distance` from d x d moments, in O(K d^2) time and O(d^2 + tile_rows d) memory.

    In the basis of `1 / sqrt(K)` and its complement the target T is `1 / sqrt(K - 1)` times the identity of the
    complement, and the centered block `alpha C C^T + C D^T` has rank at most d, so its squared distance is a sum over
    the eigenvalues of `C^T C` plus terms that vanish with D; the other blocks are norms of d-vectors. Every term is
    small where the distance is, which a difference of inner products would not be.
    """
    _check_pair(weight, other)
    moments = pair_moments(weight, other, offset, tile_rows)
    num_classes, alpha, gram = moments.num_classes, moments.alpha, moments.gram
    cross, rest, mean, other_mean = moments.cross, moments.rest, moments.mean, moments.other_mean
    other_gram = alpha**2 * gram + alpha * (cross + cross.mT) + rest
    borders = num_classes * (other_mean @ gram @ other_mean + mean @ other_gram @ mean)
    corner = (num_classes * (mean @ other_mean)) ** 2
    norm = _checked_norm((gram.mul(other_gram).sum() + borders + corner).clamp(min=0).sqrt().item())
    target = 1 / math.sqrt(num_classes - 1)
    most = min(len(gram), num_classes - 1)  # the rank of C; further eigenvalues are rounding
    values = torch.linalg.eigvalsh(gram)[-most:]
    missing = (num_classes - 1 - most) * target**2
    aligned = (alpha / norm * values - target).square().sum() + missing
    # tr((alpha G / norm - target I) C^T D): C^T D has no part outside the range of C, so the identity stands for T.
    mixed = alpha / norm * gram.mul(cross).sum() - target * cross.trace()
    skew = gram.mul(rest).sum() / norm**2
    total = aligned + 2 / norm * mixed + skew + (borders + corner) / norm**2
    return total.clamp(min=0).sqrt().item()


def pair_moments(
    weight: Float[Tensor, "K d"], other: Float[Tensor, "K d"] | None, offset: Float[Tensor, " d"] | None, tile_rows: int
) -> PairMoments:
    """Compute the moments of W and M, tile by tile in float64."""
    mean = _column_means(weight, tile_rows)
    zeros = mean.new_zeros(weight.shape[1], weight.shape[1])
    gram = zeros.clone()
    if other is None:
        for rows in weight.split(tile_rows):
            centered = rows.double() - mean
            gram.addmm_(centered.mT, centered)
        shifted = mean if offset is None else mean - offset.to(mean)
        return PairMoments(len(weight), mean, shifted, 1.0, gram, zeros, zeros)
    other_mean = _column_means(other, tile_rows).to(mean)
    inner = 0.0
    for rows, other_rows in zip(weight.split(tile_rows), other.split(tile_rows), strict=True):
        centered = rows.double() - mean
        gram.addmm_(centered.mT, centered)
        inner += centered.mul(other_rows.to(mean) - other_mean).sum().item()
    alpha = inner / max(gram.trace().item(), torch.finfo(torch.float64).tiny)
    cross, rest = zeros.clone(), zeros
    for rows, other_rows in zip(weight.split(tile_rows), other.split(tile_rows), strict=True):
        centered = rows.double() - mean
        difference = other_rows.to(mean) - other_mean - alpha * centered
        cross.addmm_(centered.mT, difference)
        rest.addmm_(difference.mT, difference)
    shifted = other_mean if offset is None else other_mean - offset.to(mean)
    return PairMoments(len(weight), mean, shifted, alpha, gram, cross, rest)


def _column_means(matrix: Tensor, tile_rows: int) -> Tensor:
    """Compute means in float64, tile by tile; torch would copy the whole matrix to float64 first."""
    total = matrix.new_zeros(matrix.shape[1], dtype=torch.float64)
    for rows in matrix.split(tile_rows):
        total += rows.double().sum(0)
    return total / len(matrix)


def _check_pair(weight: Tensor, other: Tensor | None) -> None:
    if weight.ndim != 2 or len(weight) < 2:
        raise ValueError(
            f"a simplex needs at least two rows, one for each class, got a tensor of shape {tuple(weight.shape)}"
        )
    if other is not None and other.shape != weight.shape:
        raise ValueError(
            f"both matrices must have one row for each class and the same columns, got {tuple(weight.shape)} and "
            f"{tuple(other.shape)}"
        )


def _checked_norm(norm: float) -> float:
    if not 0 < norm < math.inf:
        raise ValueError(f"the product of the two matrices has norm {norm}; a direction needs finite, non-zero rows")
    return norm
