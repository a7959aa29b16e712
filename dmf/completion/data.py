"""Observed entries from what `MatrixCompletion` takes: triplets, a dense array with NaN, or a scipy sparse matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from torch import Tensor

from dmf.completion.ids import Axis, as_array, axis_of, from_torch, read_ids, unmasked
from dmf.observed import ObservedEntries, RepeatedEntries, check_indices, check_triplets, repeated_entries


class Split(NamedTuple):
    """Two disjoint parts of the observed entries; `validation` is None if nothing is held out."""

    training: ObservedEntries
    validation: ObservedEntries | None


class Ids(NamedTuple):
    """Ids of the rows and columns of entries: integers or text."""

    rows: Shaped[NDArray, "*n"]
    cols: Shaped[NDArray, "*n"]


class Axes(NamedTuple):
    """What the rows and the columns of a matrix are called."""

    rows: Axis
    cols: Axis

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.rows.size, self.cols.size

    def numbers(self, ids: Ids) -> tuple[Int[Tensor, "*n"], Int[Tensor, "*n"]]:
        """Return the numbers of the ids; those that are not known get the number after the last one."""
        return self.rows.numbers(ids.rows, "rows"), self.cols.numbers(ids.cols, "cols")

    def extended(self, ids: Ids) -> Axes:
        """Return the axes with all of these ids."""
        return Axes(self.rows.extended(ids.rows, "rows"), self.cols.extended(ids.cols, "cols"))


class Listed(NamedTuple):
    """The observed entries of a matrix, and what its rows and columns are called."""

    entries: ObservedEntries
    axes: Axes


def pairs_of(X: Any) -> Ids | None:
    """Return rows and columns if X is a table of them, with two columns of integers or text; None otherwise.

    Raises:
        ValueError: if it has two columns of floats that are all whole: then they are ids, too.

    >>> pairs_of([[0, 5], [3, 1]])
    Ids(rows=array([0, 3]), cols=array([5, 1]))
    """
    X = from_torch(X)
    if issparse(X):
        return None
    array = as_array(X)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        return None
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        return None
    return Ids(read_ids(array[:, 0], "the rows in X"), read_ids(array[:, 1], "the columns in X"))


class Compact(NamedTuple):
    """The entries of a matrix without its empty rows and columns, and the numbers of those that are left, sorted."""

    entries: ObservedEntries
    rows: Int[Tensor, " out"]
    cols: Int[Tensor, " in"]


def compact(entries: ObservedEntries) -> Compact:
    """Leave out rows and columns without entries: they hold no information.

    >>> compact(matrix_entries(np.array([[5.0, np.nan, 6.0]])).entries).cols
    tensor([0, 2])
    """
    (rows, row), (cols, col) = (index.unique(return_inverse=True) for index in (entries.rows, entries.cols))
    return Compact(ObservedEntries(row, col, entries.values, (len(rows), len(cols)), entries.weights), rows, cols)


def listed_entries(
    ids: Ids,
    values: ArrayLike,
    shape: Sequence[int] | None,
    *,
    known: Axes | None = None,
    weights: ArrayLike | None = None,
) -> Listed:
    """Collect observed entries from their ids and values.

    Args:
        shape: of the matrix, where ids are numbers; None takes what the ids need.
        known: the axes of an earlier fit, whose ids keep their numbers.
        weights: of the entries; those of weight 0 are left out.

    Raises:
        ValueError: if values or weights are not real numbers, or as in `Axis` and `ObservedEntries`.

    >>> listed_entries(Ids(np.array(["bob", "ann"]), np.array([2, 0])), [5, 7], None).entries.rows
    tensor([0, 1])
    """
    ids, values, weights = counted_values(ids, values, weights)
    if known is None:
        sizes = _sizes(shape)
        known = Axes(axis_of(ids.rows, "rows", sizes[0]), axis_of(ids.cols, "cols", sizes[1]))
    elif shape is None:
        known = known.extended(ids)
    _check_inside(ids, known)
    shape = (max(1, known.rows.size), max(1, known.cols.size))
    try:
        return Listed(ObservedEntries(*known.numbers(ids), values, shape, weights), known)
    except RepeatedEntries as error:
        _, count, entry = error.args
        row, col = (axis.ids(np.array(number)).item() for axis, number in zip(known, entry, strict=True))
        raise repeated_entries(count, (row, col)) from None


class Counted(NamedTuple):
    """Ids, values and weights of entries that count."""

    ids: Ids
    values: Float[Tensor, " nnz"]
    weights: Float[Tensor, " nnz"] | None


def counted_values(ids: Ids, values: ArrayLike, weights: ArrayLike | None) -> Counted:
    """Read values and weights, and leave out the entries of weight 0.

    Raises:
        ValueError: if lengths differ, values are not finite real numbers, or weights are negative or not finite.
    """
    read = _real_values(values, "values")
    rows, cols = (torch.zeros(each.shape, dtype=torch.int64) for each in ids)
    check_triplets(rows, cols, read)
    if weights is None:
        return Counted(ids, read, None)
    found = _weights(weights, read.shape)
    counting = found > 0
    return Counted(Ids(*(each[counting.numpy()] for each in ids)), read[counting], found[counting])


def matrix_entries(matrix: Any, weights: ArrayLike | None = None) -> Listed:
    """Collect the observed entries of a float array, those that are not NaN, or of a scipy sparse matrix, those stored.

    Args:
        weights: one for each row, or for each entry of the matrix.

    Raises:
        ValueError: if nothing is observed, or as in `ObservedEntries`.

    >>> matrix_entries(np.array([[1.0, np.nan], [np.nan, 2.0]])).entries.values
    tensor([1., 2.], dtype=torch.float64)
    """
    if issparse(matrix):
        coo = matrix.tocoo()
        rows, cols, values = coo.row, coo.col, coo.data
    else:
        rows, cols = np.nonzero(~np.isnan(matrix))
        values = matrix[rows, cols]
        if len(rows) == 0:
            raise ValueError(f"all {matrix.size} entries are missing (NaN); at least one observed entry is needed")
    if weights is not None:
        given = unmasked(weights, "sample_weight")
        if given.shape not in (tuple(matrix.shape), (matrix.shape[0],)):
            raise ValueError(
                f"sample_weight has shape {given.shape}, and the matrix {tuple(matrix.shape)}; pass one weight for "
                "each row, or one for each entry"
            )
        weights = given[rows] if given.ndim == 1 else given[rows, cols]
    return listed_entries(Ids(rows.astype(np.int64), cols.astype(np.int64)), values, matrix.shape, weights=weights)


def merged(old: ObservedEntries, new: ObservedEntries) -> ObservedEntries:
    """Add new entries to old ones; where both have an entry, it is the new one. The shape is that of the new ones.

    >>> old = matrix_entries(np.array([[1.0, 2.0]])).entries
    >>> merged(old, matrix_entries(np.array([[np.nan, 5.0], [7.0, np.nan]])).entries).values
    tensor([1., 5., 7.], dtype=torch.float64)
    """
    keys = [each.rows * new.shape[1] + each.cols for each in (old, new)]
    kept = ~torch.isin(*keys)

    def joined(name: str) -> Tensor:
        first, second = (getattr(each, name) for each in (old, new))
        return torch.cat([first[kept], second])

    if old.weights is None and new.weights is None:
        weights = None
    else:
        first, second = (torch.ones_like(each.values) if each.weights is None else each.weights for each in (old, new))
        weights = torch.cat([first[kept], second])
    return ObservedEntries(joined("rows"), joined("cols"), joined("values"), new.shape, weights)


def split_entries(entries: ObservedEntries, fraction: float, seed: int) -> Split:
    """Split off a random part of the entries for validation.

    Args:
        fraction: share of the entries to hold out, in [0, 1).

    Raises:
        ValueError: if one of the parts would be empty.

    >>> parts = split_entries(matrix_entries(np.eye(10)).entries, 0.2, seed=0)
    >>> len(parts.training), len(parts.validation)
    (80, 20)
    """
    if fraction == 0:
        return Split(entries, None)
    held_out = round(fraction * len(entries))
    if not 0 < held_out < len(entries):
        raise ValueError(
            f"validation_fraction={fraction:g} of {len(entries)} observed entries leaves nothing to validate on or "
            "nothing to train on; change it, or set it to 0 to train without validation"
        )
    order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(len(entries)))
    return Split(selected(entries, order[held_out:]), selected(entries, order[:held_out]))


def selected(entries: ObservedEntries, chosen: Shaped[Tensor, " n"]) -> ObservedEntries:
    """Return some of the entries of the same matrix, by their positions or by a mask."""
    weights = None if entries.weights is None else entries.weights[chosen]
    return ObservedEntries(entries.rows[chosen], entries.cols[chosen], entries.values[chosen], entries.shape, weights)


def _real_values(values: ArrayLike, what: str) -> Float[Tensor, " nnz"]:
    array = unmasked(values, what)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be real numbers, got {array.dtype}; convert them with `.astype(float)`")
    return torch.from_numpy(array.astype(np.float64))


def _weights(weights: ArrayLike, shape: Sequence[int]) -> Float[Tensor, " nnz"]:
    found = _real_values(weights, "sample_weight")
    if found.shape != shape:
        raise ValueError(
            f"sample_weight has shape {tuple(found.shape)}, and the values {tuple(shape)}; pass one for each"
        )
    if not bool((torch.isfinite(found) & (found >= 0)).all()):
        raise ValueError("sample_weight has negative, NaN or infinite entries; pass 0 to leave an entry out")
    if not bool((found > 0).any()):
        raise ValueError(
            "the weights in sample_weight are all zero, so nothing is left to learn from; pass some positive ones"
        )
    return found


def _sizes(shape: Sequence[int] | None) -> tuple[int | None, int | None]:
    if shape is None:
        return None, None
    if len(shape) != 2:
        raise ValueError(f"shape must be (number of rows, number of columns), got {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def _check_inside(ids: Ids, axes: Axes) -> None:
    sides = zip(ids, axes, strict=True)
    rows, cols = (torch.zeros(1) if axis.names is not None else torch.from_numpy(each) for each, axis in sides)
    check_indices(rows, cols, axes.shape)


def counts(entries: ObservedEntries) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the observed entries in each row and in each column."""
    pattern = entries.pattern
    return pattern.row_pointers.diff().long().cpu().numpy(), pattern.column_pointers.diff().long().cpu().numpy()
