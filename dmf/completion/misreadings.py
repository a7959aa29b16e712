"""Data that would be read as something else than what they are: refused where that is certain, else a warning."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import issparse

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
