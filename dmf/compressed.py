"""The compressed deep matrix factorization: a chain of small cores between two thin factors."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dmf.factorization import DeepMatrixFactorization, MatrixFactorization
from dmf.functional import chain_product, identity_chain, orthogonal
from dmf.observed import ObservedEntries
from dmf.subspaces import Subspaces, subspaces_from_entries, subspaces_from_wide


class CompressedDMF(MatrixFactorization):
    """The compressed deep factorization `f = left core[L-1] ... core[0] right^T`.

    It follows a wide factorization of depth L with the same initial scale, inside the small subspace in which that one
    moves. Take the subspaces from data: `from_observations`, `from_entries` or `from_gradient`. The constructor draws
    random ones, as a baseline and for loading a saved state.

    Args:
        n_out, n_in: shape of the matrix.
        rank: r, the width of the cores; r/2 directions come from each side of the first gradient.
        depth: L, the number of cores, at least 1.
        init_scale: eps of the start `core = eps I`, positive.
        generator, dtype, device: of the random orthonormal left and right factors.

    Attributes:
        left, core, right: parameters of shape (n_out, r), (L, r, r) and (n_in, r).

    Raises:
        ValueError: if a size or the scale is out of range.

    Source: Yaras et al., ICML 2024, the compressed factorization. Train the outer factors at a smaller learning
    rate (`parameter_groups`).

    >>> CompressedDMF(5, 4, rank=2)().shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        n_out: int,
        n_in: int,
        rank: int,
        *,
        depth: int = 3,
        init_scale: float = 1e-3,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n_out, n_in, init_scale)
        if depth < 1 or not 1 <= rank <= max(n_out, n_in):
            raise ValueError(
                f"a compressed factorization of {n_out} x {n_in} needs a depth of at least 1 and a rank from 1 to "
                f"{max(n_out, n_in)}, got depth {depth} and rank {rank}"
            )
        options: dict[str, Any] = {"generator": generator, "dtype": dtype, "device": device}
        self.left = nn.Parameter(orthogonal(n_out, rank, **options))
        self.core = nn.Parameter(identity_chain(depth, rank, init_scale, dtype=dtype, device=device))
        self.right = nn.Parameter(orthogonal(n_in, rank, **options))

    @classmethod
    def from_gradient(
        cls, wide: DeepMatrixFactorization, weight_gradient: Float[Tensor, "out in"], rank: int
    ) -> CompressedDMF:
        """Build the compressed factorization that follows a wide one, from the wide one's first gradient.

        Args:
            wide: at its orthogonal start, of width at least max(n_out, n_in); its depth and init_scale are used.
            weight_gradient: `G = dL/df` at that start, (n_out, n_in): the gradient of the loss with respect to the
                product (for `dmf.masked_loss` it is `mask * (f - target) / numel`). A positive factor does not matter.
                The part that comes from f is of size eps^L; at a large eps pass `-target`, whose subspace is exact.
            rank: r, even; r/2 leading singular vectors from each side of G are used.

        Raises:
            ValueError: if the rank is odd or too large, the gradient has another shape, is not finite or is zero, or
                the wide factorization is not at an orthogonal start.

        Source: Yaras et al., ICML 2024; the closed form is that of `dmf.subspaces.compressed_subspaces`.

        >>> wide = DeepMatrixFactorization(6, 6, init_scale=0.1)
        >>> CompressedDMF.from_gradient(wide, wide().detach() - torch.eye(6), rank=2).core.shape
        torch.Size([3, 2, 2])
        """
        with torch.no_grad():
            outer = subspaces_from_wide(list(wide.factors), wide.init_scale, weight_gradient, rank)
        return cls._from_subspaces(outer, wide.depth, wide.init_scale)

    @classmethod
    def from_entries(
        cls, entries: ObservedEntries, rank: int, *, depth: int = 3, init_scale: float = 1e-3, seed: int = 0
    ) -> CompressedDMF:
        """Build the compressed factorization for the squared error on observed entries, without a dense matrix.

        The gradient at the (nearly zero) start is minus the observed values, a sparse matrix. Its singular vectors come
        from a block Krylov space, and the wide start is an implicit orthogonal map.

        Args:
            entries: the data; the factorization gets their dtype and device.
            rank: r, even.
            depth, init_scale: of the cores.
            seed: of the implicit start and of the iteration.

        Raises:
            ValueError: if the rank is odd or too large, or all values are zero.

        Source: Yaras et al., ICML 2024; the implicit start is ours (only its action on r/2 vectors matters).

        >>> entries = ObservedEntries.from_dense(torch.ones(5, 4))
        >>> CompressedDMF.from_entries(entries, rank=2).left.shape
        torch.Size([5, 2])
        """
        with torch.no_grad():
            outer = subspaces_from_entries(entries, rank, seed)
        return cls._from_subspaces(outer, depth, init_scale)

    @classmethod
    def from_observations(
        cls,
        rows: Int[Tensor, " nnz"],
        cols: Int[Tensor, " nnz"],
        values: Float[Tensor, " nnz"],
        shape: tuple[int, int],
        rank: int,
        *,
        depth: int = 3,
        init_scale: float = 1e-3,
        seed: int = 0,
    ) -> CompressedDMF:
        """Call `from_entries` with `ObservedEntries(rows, cols, values, shape)`.

        >>> one, value = torch.tensor([1]), torch.tensor([2.0])
        >>> CompressedDMF.from_observations(one, one, value, (4, 3), rank=2).right.shape
        torch.Size([3, 2])
        """
        entries = ObservedEntries(rows, cols, values, shape)
        return cls.from_entries(entries, rank, depth=depth, init_scale=init_scale, seed=seed)

    @classmethod
    def _from_subspaces(cls, outer: Subspaces, depth: int, init_scale: float) -> CompressedDMF:
        left, right = outer
        # On the meta device nothing is drawn: the outer factors are known.
        model = cls(len(left), len(right), left.shape[1], depth=depth, init_scale=init_scale, device="meta")
        options: dict[str, Any] = {"dtype": left.dtype, "device": left.device}
        model.left, model.right = nn.Parameter(left.contiguous()), nn.Parameter(right.contiguous())
        model.core = nn.Parameter(identity_chain(depth, left.shape[1], init_scale, **options))
        return model

    @property
    def rank(self) -> int:
        """Width of the cores."""
        return self.core.shape[-1]

    @property
    def depth(self) -> int:
        """Number of the cores."""
        return self.core.shape[0]

    def two_factors(self) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "in rank"]]:
        """Return `left core[L-1] ... core[0]` and `right`, whose product `first second^T` is f."""
        return self.left @ chain_product(self.core), self.right

    def extra_repr(self) -> str:
        """Describe sizes and start for `print(model)`."""
        return (
            f"n_out={self.n_out}, n_in={self.n_in}, rank={self.rank}, depth={self.depth}, "
            f"init_scale={self.init_scale:g}"
        )
