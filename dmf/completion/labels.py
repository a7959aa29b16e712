"""What a table of pandas calls its rows and columns: its index and its columns are the ids of the matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from dmf.completion.data import Axes
from dmf.completion.ids import Axis, read_ids


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
