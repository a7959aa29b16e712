"""Observed entries from what `MatrixCompletion` takes: triplets, a dense array with NaN, or a scipy sparse matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from torch import Tensor

from dmf.observed import ObservedEntries


class Split(NamedTuple):
    """Two disjoint parts of the observed entries; `validation` is None if nothing is held out."""

    training: ObservedEntries
    validation: ObservedEntries | None


def index_vector(index: ArrayLike, name: str) -> Int[Tensor, "*n"]:
    """Convert integer indices to a tensor.

    Raises:
        ValueError: if they are not integers.

    >>> index_vector([3, 1], "rows")
    tensor([3, 1])
    """
    array = np.asarray(index)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers that count from 0, got {array.dtype}; convert names or labels with "
            "`sklearn.preprocessing.OrdinalEncoder` or `pandas.factorize`, and convert whole floats with `.astype(int)`"
        )
    if array.size and array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} go up to {array.max()}, which no index reaches; number them with `pandas.factorize`")
    return torch.from_numpy(array.astype(np.int64))


def pairs_of(X: Any) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]] | None:
    """Return rows and columns if X is a table of them, with two columns of integers; None if it is anything else.

    Raises:
        ValueError: if it has two columns of names, or of floats that are all whole: then they are ids, too.

    >>> pairs_of([[0, 5], [3, 1]])
    (tensor([0, 3]), tensor([5, 1]))
    """
    if issparse(X):
        return None
    array = np.asarray(X)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
        return None
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        return None
    return index_vector(array[:, 0], "the rows in X"), index_vector(array[:, 1], "the columns in X")


class Compact(NamedTuple):
    """The entries of a matrix without its empty rows and columns, and the numbers of those that are left, sorted."""

    entries: ObservedEntries
    rows: Int[Tensor, " out"]
    cols: Int[Tensor, " in"]


def compact(entries: ObservedEntries) -> Compact:
    """Leave out rows and columns without entries: they hold no information.

    >>> compact(entries_from_triplets([0, 7], [2, 4], [5, 6], None)).cols
    tensor([2, 4])
    """
    (rows, row), (cols, col) = (index.unique(return_inverse=True) for index in (entries.rows, entries.cols))
    return Compact(ObservedEntries(row, col, entries.values, (len(rows), len(cols))), rows, cols)


def entries_from_triplets(
    rows: ArrayLike, cols: ArrayLike, values: ArrayLike, shape: Sequence[int] | None
) -> ObservedEntries:
    """Collect observed entries from three vectors; without a shape the largest indices decide.

    Raises:
        ValueError: if rows or cols are not integers, values are not real numbers, or as in `ObservedEntries`.

    >>> entries_from_triplets([0, 2], [1, 0], [5, 7], None).shape
    (3, 2)
    """
    row_index, col_index = index_vector(rows, "rows"), index_vector(cols, "cols")
    return ObservedEntries(row_index, col_index, _real_values(values), _shape(row_index, col_index, shape))


def entries_from_matrix(matrix: Any) -> ObservedEntries:
    """Collect the observed entries of a float array, those that are not NaN, or of a scipy sparse matrix, those stored.

    Raises:
        ValueError: if nothing is observed, or as in `ObservedEntries`.

    >>> entries_from_matrix(np.array([[1.0, np.nan], [np.nan, 2.0]])).values
    tensor([1., 2.], dtype=torch.float64)
    """
    if issparse(matrix):
        coo = matrix.tocoo()
        return entries_from_triplets(coo.row, coo.col, coo.data, coo.shape)
    rows, cols = np.nonzero(~np.isnan(matrix))
    if len(rows) == 0:
        raise ValueError(f"all {matrix.size} entries are missing (NaN); at least one observed entry is needed")
    return entries_from_triplets(rows, cols, matrix[rows, cols], matrix.shape)


def split_entries(entries: ObservedEntries, fraction: float, seed: int) -> Split:
    """Split off a random part of the entries for validation.

    Args:
        fraction: share of the entries to hold out, in [0, 1).

    Raises:
        ValueError: if one of the parts would be empty.

    >>> parts = split_entries(entries_from_matrix(np.eye(10)), 0.2, seed=0)
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
    rows, cols = entries.rows, entries.cols
    validation, training = (
        ObservedEntries(rows[part], cols[part], entries.values[part], entries.shape)
        for part in (order[:held_out], order[held_out:])
    )
    return Split(training, validation)


def _real_values(values: ArrayLike) -> Float[Tensor, " nnz"]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"values must be real numbers, got {array.dtype}; convert them with `.astype(float)`")
    return torch.from_numpy(array.astype(np.float64))


def _shape(rows: Tensor, cols: Tensor, shape: Sequence[int] | None) -> tuple[int, int]:
    if shape is None:
        return (int(rows.max()) + 1, int(cols.max()) + 1) if len(rows) and len(cols) else (1, 1)
    if len(shape) != 2:
        raise ValueError(f"shape must be (number of rows, number of columns), got {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def counts(entries: ObservedEntries) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the observed entries in each row and in each column."""
    pattern = entries.pattern
    return pattern.row_pointers.diff().long().cpu().numpy(), pattern.column_pointers.diff().long().cpu().numpy()
