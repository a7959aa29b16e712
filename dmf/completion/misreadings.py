"""Data that would be misread: labels and gaps are kept, the rest is refused where it is certain, or else warned of."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import NDArray
from scipy.sparse import coo_array, issparse

from dmf.completion.data import Axes
from dmf.completion.ids import Axis, from_torch, read_ids
from dmf.observed import repeated_entries

EARLIEST = 1e8  # seconds since 1970 that a column of times may begin at: 1973
FEW_ROWS = 10  # a matrix of three columns and fewer rows may well have whole numbers by chance


def check_same_order(*columns: Any) -> None:
    """Raise if columns of pandas have the same index in another order: they would be paired by position.

    Raises:
        ValueError: then.

    >>> check_same_order([1, 2], np.array([3, 4]))
    """
    indexes = [column.index for column in columns if hasattr(column, "index") and hasattr(column, "iloc")]
    for one, other in combinations(indexes, 2):
        if len(one) == len(other) and not one.equals(other) and one.sort_values().equals(other.sort_values()):
            raise ValueError(
                "the columns have the same index in different orders, and entries are paired by position; sort one by "
                "the index of the other, `values.loc[rows.index]`, or pass `.to_numpy()` if positions are right"
            )


def check_numbers(error: ValueError) -> None:
    """Raise a text that says how to pass ids, if an error says that a matrix holds text.

    Raises:
        ValueError: then.
    """
    if str(error).startswith("could not convert string"):
        raise ValueError(
            f"X alone is read as a matrix of numbers, and this holds text ({error}); pass ids and values one by one, "
            "such as fit(table['user'], table['item'], table['rating']), or leave out columns of text"
        ) from None


def warn_of_matrix(matrix: Any) -> None:
    """Warn if a matrix without gaps looks like a list of triplets, or as if zeros stood for missing entries."""
    if issparse(matrix) or np.isnan(matrix).any():
        return
    if _looks_like_triplets(matrix):
        warnings.warn(
            f"X has {matrix.shape[1]} columns, nothing is missing, and the first two hold whole numbers, each pair "
            "once; it is read as a matrix. If these are rows, columns and values, pass them one by one: "
            "fit(X[:, 0], X[:, 1], X[:, 2])",
            stacklevel=5,
        )
    elif matrix.size and (matrix == 0).mean() > 0.5 and len(np.unique(matrix)) > 2:  # two: choices, 1 and 0
        warnings.warn(
            f"{(matrix == 0).mean():.0%} of X is zero and nothing is missing, so zeros count as observed; if they "
            "stand for missing entries, pass NaN there, or a scipy sparse matrix",
            stacklevel=5,
        )


def warn_of_equal_values(values: ndarray) -> None:
    """Warn if all observed values are equal: predictions are that value, and no item is better than another."""
    if len(values) > 1 and values.min() == values.max():
        warnings.warn(
            f"all {len(values)} observed values are {values.min():g}, so every prediction is, and recommendations are "
            "arbitrary; where only the choices are known, complete the dense matrix of 1 and 0 (docs/dmf.md)",
            stacklevel=4,
        )


def _looks_like_triplets(matrix: Float[ndarray, "m n"]) -> bool:
    if matrix.shape[1] not in (3, 4) or len(matrix) < FEW_ROWS:
        return False
    if matrix.shape[1] == 4 and matrix[:, 3].min() < EARLIEST:
        return False
    ids = matrix[:, :2]
    return bool((ids >= 0).all() and (ids == np.floor(ids)).all()) and len(np.unique(ids, axis=0)) == len(ids)


def named_axes(table: Any, axes: Axes) -> Axes:
    """Return the axes of a matrix with the labels of a table as ids; those of anything but a table as they are.

    Labels that number the rows from 0, are repeated, or are neither integers nor text name nothing.

    >>> import pandas
    >>> axes = Axes(Axis(2), Axis(2))
    >>> named_axes(pandas.DataFrame(np.eye(2), index=[7, 3], columns=[0, 1]), axes).rows.names
    array([7, 3])
    """
    if not (hasattr(table, "iloc") and hasattr(table, "columns")):
        return axes
    return Axes(_named(table.index, axes.rows), _named(table.columns, axes.cols))


def check_same_labels(found: Axes, known: Axes) -> None:
    """Raise if a table has other labels than the fitted one, or the same in another order: its rows go by position.

    Raises:
        ValueError: then.

    >>> check_same_labels(Axes(Axis(2), Axis(2)), Axes(Axis(2), Axis(2)))
    """
    for what, one, other in zip(("rows", "columns"), found, known, strict=True):
        if one.names is not None and other.names is not None and not np.array_equal(one.names, other.names):
            raise ValueError(
                f"the {what} of X have other labels than those of the fit, or another order, and they are matched by "
                "position; pass X.reindex(index=model.row_ids_, columns=model.column_ids_), or rows, cols and values"
            )


def _named(labels: Any, axis: Axis) -> Axis:
    names = _ids(labels)
    if names is None or (names.dtype.kind == "i" and np.array_equal(names, np.arange(axis.size))):
        return axis
    return Axis(axis.size, names)


def _ids(labels: Any) -> ndarray | None:
    try:
        names = read_ids(labels.to_numpy(), "labels") if labels.is_unique else None
    except ValueError:  # dates, floats, labels of several kinds
        return None
    return names if names is not None and names.ndim == 1 else None


def with_gaps(matrix: Any) -> Any:
    """Return a masked array with NaN where it is masked, a tensor as an array, and a sparse matrix in float64.

    Whatever a sparse matrix stores stays stored, also twice. Anything else is returned as it is.

    >>> with_gaps(np.ma.masked_array([[1, 2]], [[False, True]]))
    array([[ 1., nan]])
    """
    if isinstance(matrix, np.ma.MaskedArray):
        return np.ma.filled(matrix.astype(np.float64), np.nan)
    matrix = from_torch(matrix)
    if not issparse(matrix) or matrix.dtype == np.float64 or matrix.dtype.kind not in "biuf":
        return matrix
    coo = matrix.tocoo()  # astype() of scipy, which scikit-learn calls, adds up entries that are stored twice
    return coo_array((coo.data.astype(np.float64), (coo.row, coo.col)), shape=coo.shape)


def stored(matrix: Any) -> Float[NDArray, "m n"]:
    """Return a scipy sparse matrix as a dense one, with NaN where nothing is stored.

    Raises:
        ValueError: if an entry is stored twice.

    >>> from scipy.sparse import csr_array
    >>> stored(csr_array([[0.0, 2.0]]))
    array([[nan,  2.]])
    """
    coo = matrix.tocoo()
    keys = coo.row.astype(np.int64) * coo.shape[1] + coo.col
    first = np.unique(keys, return_index=True)[1]
    if len(first) < len(keys):
        place = np.setdiff1d(np.arange(len(keys)), first)[0]
        raise repeated_entries(len(keys) - len(first), (coo.row[place], coo.col[place]))
    table = np.full(coo.shape, np.nan)
    table[coo.row, coo.col] = coo.data
    return table
