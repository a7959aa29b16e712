"""The observed entries of a matrix, checked and sorted once, ready for sparse products."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dmf.sparse import SparsityPattern

LARGE_SIDE = 10**7  # rows or columns that any matrix may have; a larger one must have the entries for it
ENTRIES_FACTOR = 100


class ObservedEntries:
    """Observed entries `(rows[k], cols[k]) -> values[k]` of a matrix of a given shape.

    They are sorted by row, then by column, and so is everything computed from them, such as residuals. `order` says
    where each came from: `values == given_values[order]`.

    Args:
        rows, cols: integer indices, each pair once.
        values: float32 or float64, finite.
        shape: (n_out, n_in) of the matrix.
        weights: how much the squared error of each entry counts, positive; None counts all the same.

    Raises:
        ValueError: for unequal lengths, no entries, indices out of range, the same entry twice, values that are not
            finite or not float32/float64, weights that are not positive, or a shape that is empty or far larger than
            the entries can fill.

    >>> entries = ObservedEntries(torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([5.0, 7.0]), (2, 3))
    >>> entries.values, entries.order, len(entries)
    (tensor([7., 5.]), tensor([1, 0]), 2)
    """

    def __init__(
        self,
        rows: Int[Tensor, " nnz"],
        cols: Int[Tensor, " nnz"],
        values: Float[Tensor, " nnz"],
        shape: tuple[int, int],
        weights: Float[Tensor, " nnz"] | None = None,
    ) -> None:
        _check_shape(shape)
        check_triplets(rows, cols, values)
        _check_weights(weights, values)
        _check_size(shape, len(rows))
        check_indices(rows, cols, shape)
        keys, order = torch.sort(rows.long() * shape[1] + cols)
        _check_distinct(keys, shape)
        self.order: Int[Tensor, " nnz"] = order
        self.values: Float[Tensor, " nnz"] = values[order]
        self.weights: Float[Tensor, " nnz"] | None = None if weights is None else weights[order]
        sorted_rows = keys // shape[1]
        self.pattern = SparsityPattern.from_sorted(sorted_rows, keys - sorted_rows * shape[1], shape)

    @classmethod
    def from_dense(cls, matrix: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"] | None = None) -> ObservedEntries:
        """Take the entries of a dense matrix where `mask` is true (or not zero); without a mask, where it is not NaN.

        >>> ObservedEntries.from_dense(torch.tensor([[1.0, float("nan")], [2.0, 3.0]])).values
        tensor([1., 2., 3.])
        """
        if matrix.ndim != 2 or (mask is not None and mask.shape != matrix.shape):
            found = None if mask is None else tuple(mask.shape)
            raise ValueError(
                f"need a matrix (out, in) and a mask of the same shape, got {tuple(matrix.shape)} and {found}"
            )
        seen = ~torch.isnan(matrix) if mask is None else mask != 0
        rows, cols = seen.nonzero(as_tuple=True)
        return cls(rows, cols, matrix[rows, cols], (matrix.shape[0], matrix.shape[1]))

    @classmethod
    def from_sparse(cls, matrix: Tensor) -> ObservedEntries:
        """Take the stored entries of a torch sparse matrix in any layout; stored zeros are observations.

        Repeated entries of an uncoalesced COO tensor are summed, as everywhere in torch.

        >>> ObservedEntries.from_sparse(torch.eye(2).to_sparse_csr()).values
        tensor([1., 1.])
        """
        if matrix.layout == torch.strided or matrix.ndim != 2:
            raise ValueError(
                f"need a sparse matrix with two dimensions, got {matrix.ndim} and layout {matrix.layout}; "
                "for dense data use `ObservedEntries.from_dense`"
            )
        coo = (matrix if matrix.layout == torch.sparse_coo else matrix.to_sparse_coo()).coalesce()
        rows, cols = coo.indices()
        return cls(rows, cols, coo.values(), (matrix.shape[0], matrix.shape[1]))

    def __len__(self) -> int:
        return self.values.numel()

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in) of the matrix."""
        return self.pattern.shape

    @property
    def rows(self) -> Int[Tensor, " nnz"]:
        """Row of each entry, in the sorted order."""
        counts = self.pattern.row_pointers.diff()
        index = torch.arange(self.shape[0], device=counts.device)
        return torch.repeat_interleave(index, counts, output_size=len(self))

    @property
    def cols(self) -> Int[Tensor, " nnz"]:
        """Column of each entry, in the sorted order."""
        return self.pattern.columns.long()

    def with_values(self, values: Float[Tensor, " nnz"]) -> ObservedEntries:
        """Return the same entries with other values, in the sorted order."""
        changed = object.__new__(ObservedEntries)
        changed.order, changed.pattern = self.order, self.pattern
        changed.values, changed.weights = values, self.weights
        return changed

    def with_weights(self, weights: Float[Tensor, " nnz"] | None) -> ObservedEntries:
        """Return the same entries with other weights, in the sorted order, or with none."""
        _check_weights(weights, self.values)
        changed = self.with_values(self.values)
        changed.weights = weights
        return changed

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ObservedEntries:
        """Move the entries to another device or dtype."""
        moved = object.__new__(ObservedEntries)
        moved.values = self.values.to(device=device, dtype=dtype)
        moved.weights = None if self.weights is None else self.weights.to(device=device, dtype=dtype)
        moved.order = self.order.to(moved.values.device)
        moved.pattern = self.pattern.to(moved.values.device)
        return moved


class RepeatedEntries(ValueError):
    """Entries of a matrix are given more than once; its arguments are a text, how many too many, and the first one."""

    def __str__(self) -> str:
        return str(self.args[0])


def repeated_entries(count: int, entry: tuple[Any, Any]) -> RepeatedEntries:
    """Say which entry, as (row, column), is the first one that is given more than once."""
    return RepeatedEntries(
        f"{count} entries are given more than once, the first is ({entry[0]}, {entry[1]}); keep one of each, or "
        "average them", count, entry,
    )  # fmt: skip


def check_indices(rows: Tensor, cols: Tensor, shape: tuple[int, int]) -> None:
    """Check that row and column indices lie inside a matrix of this shape."""
    for name, index, size in (("rows", rows, shape[0]), ("cols", cols, shape[1])):
        if index.numel() == 0:
            continue
        low, high = (int(bound) for bound in index.aminmax())
        if low < 0 or high >= size:
            raise ValueError(
                f"{name} range from {low} to {high}, but a matrix of shape {shape[0]} x {shape[1]} has {name} 0 to "
                f"{size - 1}; number them from 0, or pass a larger shape"
            )


def _check_shape(shape: tuple[int, int]) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be (n_out, n_in), both at least 1, got {tuple(shape)}")


def largest_side(count: int) -> int:
    """Return how many rows or columns a matrix with this number of observed entries may have.

    >>> largest_side(5), largest_side(10**6)
    (10000000, 100000000)
    """
    return max(LARGE_SIDE, ENTRIES_FACTOR * count)


def _check_size(shape: tuple[int, int], count: int) -> None:
    """Refuse shapes that come of names such as 76561198000000000: whatever has a number for each row would be huge."""
    if max(shape) > largest_side(count) or shape[0] * shape[1] >= 2**63:
        raise ValueError(
            f"a matrix of {shape[0]} x {shape[1]} with {count} observed entries is nearly all empty, and each row and "
            "column takes memory; number the rows and columns from 0 without gaps, for instance with "
            "`numpy.unique(ids, return_inverse=True)` or `pandas.factorize`"
        )


def check_triplets(rows: Tensor, cols: Tensor, values: Tensor) -> None:
    """Check that rows, cols and values are vectors of equal length, integers and finite floats."""
    if rows.ndim != 1 or not rows.shape == cols.shape == values.shape:
        raise ValueError(
            f"rows, cols and values must be vectors of equal length, got shapes {tuple(rows.shape)}, "
            f"{tuple(cols.shape)} and {tuple(values.shape)}"
        )
    if len(rows) == 0:
        raise ValueError("no entries are observed; at least one is needed")
    if any(index.is_floating_point() or index.dtype == torch.bool for index in (rows, cols)):
        raise ValueError(f"rows and cols must be integer indices, got {rows.dtype} and {cols.dtype}; use `.long()`")
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"values must be float32 or float64, got {values.dtype}; use `.float()` or `.double()`")
    infinite = int((~torch.isfinite(values)).sum())
    if infinite:
        raise ValueError(
            f"{infinite} of {len(values)} values are NaN or infinite; leave entries that are not observed out of the "
            "triplets"
        )


def _check_weights(weights: Tensor | None, values: Tensor) -> None:
    if weights is None:
        return
    if weights.shape != values.shape or weights.dtype != values.dtype:
        raise ValueError(
            f"weights must be like the values, of shape {tuple(values.shape)} and {values.dtype}, got "
            f"{tuple(weights.shape)} and {weights.dtype}"
        )
    if not bool((torch.isfinite(weights) & (weights > 0)).all()):
        raise ValueError("weights must be finite and positive; leave out entries that should not count")


def _check_distinct(sorted_keys: Tensor, shape: tuple[int, int]) -> None:
    repeated = sorted_keys[1:][sorted_keys.diff() == 0]
    if repeated.numel():
        raise repeated_entries(repeated.numel(), divmod(int(repeated[0]), shape[1]))
