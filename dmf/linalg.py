"""The small subspace in which a deep factorization moves, found from its first gradient.

For a chain that starts at `eps * orthogonal`, gradient descent only ever changes it inside a subspace of dimension 2h,
spanned by the top-h singular vectors of the first gradient and their images under the start (Yaras et al., ICML 2024,
the invariant subspace and the compressed factorization). Everything here needs products with the gradient only, never
the gradient itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LinearMap = Callable[[Tensor], Tensor]


class FactorSVD(NamedTuple):
    """`left diag(values) right^T` with orthonormal columns and falling values."""

    left: Float[Tensor, "out rank"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "in rank"]


def orthonormalize(matrix: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """An orthonormal basis of the column space (Householder QR)."""
    return torch.linalg.qr(matrix).Q


def principal_angles(a: Float[Tensor, "d k"], b: Float[Tensor, "d k"]) -> Float[Tensor, " k"]:
    """Principal angles in radians, largest first, between the column spaces of two orthonormal bases.

    Sines of the angles are singular values of `(I - a a^T) b`, which keeps small angles accurate (a cosine does not).

    Source: Bjorck and Golub, Mathematics of Computation 27, 1973.

    >>> principal_angles(torch.eye(3)[:, :1], torch.eye(3)[:, 1:2])
    tensor([1.5708])
    """
    return torch.asin(torch.linalg.svdvals(b - a @ (a.mT @ b)).clamp(max=1.0))


def factor_svd(left: Float[Tensor, "out k"], right: Float[Tensor, "in k"]) -> FactorSVD:
    """Singular value decomposition of `left right^T` at the cost of its factors: two QRs and a k x k SVD.

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
    """The `rank` leading singular triplets of a matrix that is small enough to be decomposed.

    >>> leading_subspaces(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2).values
    tensor([3., 2.])
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return FactorSVD(u[:, :rank], s[:rank], vh[:rank].mT)


def block_krylov_svd(
    apply: LinearMap, apply_transpose: LinearMap, start: Float[Tensor, "in k"], iterations: int
) -> FactorSVD:
    """Leading singular triplets of a linear map that is known by its action only, from a block Krylov space.

    The space is spanned by `start, (G^T G) start, ..., (G^T G)^iterations start` and kept orthonormal; what is returned
    is the singular value decomposition of G restricted to it. It needs `iterations + 1` products with the map and
    `iterations` with its transpose, and is never less accurate than as many block power iterations, whose error in the
    i-th direction is of order `(s_{k+1} / s_i)^(2 iterations + 1)`.

    Args:
        apply: `M -> G M` for M (in, k).
        apply_transpose: `M -> G^T M` for M (out, k).
        start: a block of k random columns.
        iterations: number of blocks added to the first, at least 0.

    Returns:
        `k (iterations + 1)` approximate triplets, or as many as the smaller side of the map has.

    Source: Musco and Musco, NeurIPS 2015, algorithm 2 (here for `G^T G`, orthonormalised block by block).

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
        # Householder reflections give new orthonormal columns even where the block holds nothing but rounding errors.
        block = orthonormalize(torch.cat([basis, block], dim=1))[:, basis.shape[1] :]
        image = apply(block)
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, image], dim=1)
    return factor_svd(images, basis)


class OrthogonalMap:
    """A seeded random orthogonal map of shape (rows, columns) that is never formed.

    It has orthonormal columns if rows > columns and orthonormal rows otherwise. It is `S H D`: random signs D, the
    discrete Hartley transform H (real, symmetric, its own inverse, O(d log d)) and a random selection S of coordinates.
    It stands for the start `W_{L:1}(0) / eps^L` of the wide factorization, which only ever acts on a few columns.

    Args:
        rows, columns: shape of the map.
        seed: the same seed gives the same map on every machine and rank (drawn on the CPU).

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
        """The transposed map applied to `matrix`."""
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


def compressed_bases(
    left: Float[Tensor, "out h"],
    right: Float[Tensor, "in h"],
    start: LinearMap,
    start_transpose: LinearMap,
) -> tuple[Float[Tensor, "out two_h"], Float[Tensor, "in two_h"]]:
    """The outer factors U and V of the compressed factorization, from the first gradient's singular vectors.

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
        ValueError: if 2h columns do not fit into the larger side.

    Source: Yaras et al., ICML 2024, the compressed factorization; this closed form needs neither the wide
    factors nor an out x in SVD.

    >>> e = torch.eye(4)
    >>> u, v = compressed_bases(e[:, :1], e[:, 1:2], lambda m: m, lambda m: m)
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


def one_sided_bases(
    right: Float[Tensor, "in r"], start: LinearMap
) -> tuple[Float[Tensor, "out r"], Float[Tensor, "in r"]]:
    """The outer factors `U = Q V` and `V = B`: all directions from the first gradient's right singular vectors.

    Args:
        right: B, the top-r right singular vectors; r may be odd, and is at most the smaller side.
        start: `M -> Q M`, Q of shape (out, in) with orthonormal rows or columns.

    Returns:
        U (out, r) and V (in, r).

    Source: ours. The paper's (`compressed_bases`) has r/2 directions from either side, and their partners under Q.

    >>> u, v = one_sided_bases(torch.eye(4)[:, 1:2], lambda m: 2 * m)
    >>> torch.equal(v, torch.eye(4)[:, 1:2]) and torch.equal(u, 2 * v)
    True
    """
    return start(right), right
