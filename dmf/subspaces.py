"""The small subspace in which a deep factorization moves, found from its first gradient.

For a chain that starts at `eps * orthogonal`, gradient descent only ever changes it inside a subspace of dimension 2h,
spanned by the top-h singular vectors of the first gradient and their images under the start (Yaras et al., ICML 2024,
the invariant subspace and the compressed factorization). U and V, the outer factors of the compressed factorization,
are bases of that subspace on either side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dmf.functional import chain_apply
from dmf.linalg import FactorSVD, LinearMap, block_krylov_svd, leading_subspaces, orthonormalize
from dmf.observed import ObservedEntries
from dmf.sparse import sparse_product

__all__ = ["OrthogonalMap", "compressed_subspaces", "one_sided_subspaces"]

EXACT_SIDE = 1500  # below, a full SVD costs seconds at most
OVERSAMPLING = 8
ITERATIONS = 4


class OrthogonalMap:
    """A seeded random orthogonal map of shape (rows, columns) that is never formed.

    It has orthonormal columns if rows > columns and orthonormal rows otherwise. It is `S H D`: random signs D, the
    discrete Hartley transform H (real, symmetric, its own inverse, O(d log d)) and a random selection S of coordinates.
    It replaces the start `W_{L:1}(0) / eps^L` of the wide factorization, which only ever acts on a few columns.

    Args:
        rows, columns: shape of the map.
        seed: the same seed gives the same map on every machine and rank, since it is drawn on the CPU.

    >>> q = OrthogonalMap(3, 8, seed=0)
    >>> torch.allclose(q(q.transpose(torch.eye(3))), torch.eye(3), atol=1e-6)
    True
    """

    def __init__(self, rows: int, columns: int, seed: int) -> None:
        self.rows, self.columns = rows, columns
        generator = torch.Generator().manual_seed(seed)
        small, large = sorted((rows, columns))
        self._signs = torch.randint(0, 2, (large,), generator=generator) * 2 - 1
        self._selection = torch.randperm(large, generator=generator)[:small]

    def __call__(self, matrix: Float[Tensor, "columns k"]) -> Float[Tensor, "rows k"]:
        return self._narrow(matrix) if self.rows <= self.columns else self._widen(matrix)

    def transpose(self, matrix: Float[Tensor, "rows k"]) -> Float[Tensor, "columns k"]:
        """Apply the transposed map to `matrix`."""
        return self._widen(matrix) if self.rows <= self.columns else self._narrow(matrix)

    def _narrow(self, matrix: Tensor) -> Tensor:
        signs = self._signs.to(matrix)
        return _hartley(signs[:, None] * matrix)[self._selection.to(matrix.device)]

    def _widen(self, matrix: Tensor) -> Tensor:
        padded = matrix.new_zeros(self._signs.numel(), matrix.shape[1])
        padded[self._selection.to(matrix.device)] = matrix
        return self._signs.to(matrix)[:, None] * _hartley(padded)


def _hartley(matrix: Tensor) -> Tensor:
    spectrum = torch.fft.fft(matrix, dim=0, norm="ortho")
    return spectrum.real - spectrum.imag


def compressed_subspaces(
    left: Float[Tensor, "out h"],
    right: Float[Tensor, "in h"],
    start: LinearMap,
    start_transpose: LinearMap,
) -> tuple[Float[Tensor, "out two_h"], Float[Tensor, "in two_h"]]:
    """Return the outer factors U and V of the compressed factorization, from the first gradient's singular vectors.

    With `G = dL/dW`, A and B its top-h left and right singular vectors and Q the (semi-)orthogonal start:

        out <= in:  V = orth([B, Q^T A]),  U = Q V
        out >  in:  U = orth([A, Q B]),    V = Q^T U

    Args:
        left: A.
        right: B; needs 2h <= in (out <= in) or 2h <= out (out > in).
        start: `M -> Q M`, Q of shape (out, in) with orthonormal rows or columns.
        start_transpose: `M -> Q^T M`.

    Returns:
        U (out, 2h) and V (in, 2h); `U V^T` equals the paper's `left right^T`.

    Raises:
        ValueError: if 2h is more than the larger side.

    Source: Yaras et al., ICML 2024, the compressed factorization; this closed form needs neither the wide factors nor
    the SVD of an out x in matrix.

    >>> e = torch.eye(4)
    >>> u, v = compressed_subspaces(e[:, :1], e[:, 1:2], lambda m: m, lambda m: m)
    >>> torch.allclose(u @ v.T, torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])))
    True
    """
    rows, columns, width = left.shape[0], right.shape[0], 2 * left.shape[1]
    if width > max(rows, columns):
        raise ValueError(
            f"a compressed factorization of rank {width} does not fit a matrix of shape {rows} x {columns}; "
            f"use a rank of at most {max(rows, columns)}"
        )
    if rows <= columns:
        v = orthonormalize(torch.cat([right, start_transpose(left)], dim=1))
        return start(v), v
    u = orthonormalize(torch.cat([left, start(right)], dim=1))
    return u, start_transpose(u)


def one_sided_subspaces(
    right: Float[Tensor, "in r"], start: LinearMap
) -> tuple[Float[Tensor, "out r"], Float[Tensor, "in r"]]:
    """Return the outer factors `U = Q V`, `V = B`: all directions from the first gradient's right singular vectors.

    Args:
        right: B, the top-r right singular vectors; r may be odd and is at most the smaller side.
        start: `M -> Q M`, Q of shape (out, in) with orthonormal rows or columns.

    Returns:
        U (out, r) and V (in, r).

    Source: ours. The paper's `compressed_subspaces` takes r/2 directions from each side and their partners under Q.

    >>> u, v = one_sided_subspaces(torch.eye(4)[:, 1:2], lambda m: 2 * m)
    >>> torch.equal(v, torch.eye(4)[:, 1:2]) and torch.equal(u, 2 * v)
    True
    """
    return start(right), right


Subspaces = tuple[Float[Tensor, "out rank"], Float[Tensor, "in rank"]]


def subspaces_from_wide(
    factors: Sequence[Tensor], init_scale: float, weight_gradient: Float[Tensor, "out in"], rank: int
) -> Subspaces:
    """Return U and V of the compressed factorization that follows a wide chain from its orthogonal start.

    Args:
        factors: W_1, ..., W_L at the start, each `init_scale` times orthogonal.
        init_scale: eps.
        weight_gradient: `dL/d(W_L ... W_1)` at the start.
        rank: even number of columns of U and V.

    Raises:
        ValueError: if the rank is odd or too large, the gradient has another shape, is not finite or is zero, or the
            factors are not `init_scale` times orthogonal.

    Source: Yaras et al., ICML 2024, the compressed factorization; see `compressed_subspaces`.
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
    return compressed_subspaces(
        svd.left, svd.right, lambda m: chain_apply(m.mT, scaled).mT, lambda m: chain_apply(m.mT, adjoint).mT
    )


def subspaces_from_entries(entries: ObservedEntries, rank: int, seed: int) -> Subspaces:
    """Return U and V for the squared error on observed entries, from products with a sparse matrix only.

    At a start of size eps^L the residual is minus the data up to eps^L, so the sparse data matrix has the subspaces of
    the gradient (the sign changes none). The wide start is a seeded implicit orthogonal map.

    Args:
        entries: the data.
        rank: even number of columns of U and V.
        seed: of the orthogonal map and of the random test vectors.

    Raises:
        ValueError: if the rank is odd or too large, or all values are zero.

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
    return compressed_subspaces(svd.left[:, : rank // 2], svd.right[:, : rank // 2], start, start.transpose)


def largest_rank(shape: tuple[int, int]) -> int:
    """Return the largest even rank of a compressed factorization of this shape whose subspaces come from data.

    >>> largest_rank((5, 4)), largest_rank((200, 8)), largest_rank((1, 1))
    (4, 16, 0)
    """
    small, large = sorted(shape)
    return min(large - large % 2, 2 * small)


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
    if rank > largest_rank(shape):
        raise ValueError(
            f"rank {rank} is too large for a matrix of {shape[0]} x {shape[1]}: it may be at most {largest_rank(shape)}"
        )


def _check_gradient(entries: Tensor) -> None:
    if not bool(torch.isfinite(entries).all()):
        raise ValueError("the gradient has NaN or infinite entries; check the data and the loss")
    if not bool(entries.any()):
        raise ValueError("the first gradient is zero (the data are all zero or fitted already), so it spans nothing")


def _check_orthogonal(images: Float[Tensor, "half d"]) -> None:
    """Check that the start is an isometry on the directions that matter."""
    gram = images @ images.mT
    error = (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max().item()
    if not error <= 1e-3:
        raise ValueError(
            f"the wide factorization is not at an orthogonal start of scale init_scale (off by {error:.1e}); make "
            "it with start='orthogonal' and width at least max(n_out, n_in), and compress it before training"
        )
