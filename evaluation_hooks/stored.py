"""Arrays and tables that would be read as something else than they are."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_unmasked(values: Any, name: str) -> None:
    """Raise if values are masked: an array or a tensor made of them forgets which.

    Raises:
        ValueError: then.

    >>> check_unmasked(np.ma.masked_array([1.0, 2.0]), "x")
    """
    if np.ma.is_masked(values):
        raise ValueError(
            f"{np.ma.count_masked(values)} values of `{name}` are masked, and they would count; leave these rows out"
        )


def check_same_order(**tables: Any) -> None:
    """Raise if the first of some tables of pandas has the index of another one in another order.

    Raises:
        ValueError: then, because rows are matched by position.

    >>> check_same_order(x=[1.0, 2.0], y=np.array([3.0, 4.0]))
    """
    indexes = {name: table.index for name, table in tables.items() if hasattr(table, "iloc")}
    if next(iter(tables)) not in indexes:
        return
    (name, index), *others = indexes.items()
    for other, found in others:
        if len(index) == len(found) and not index.equals(found) and index.sort_values().equals(found.sort_values()):
            raise ValueError(
                f"`{name}` and `{other}` have the same index in different orders, and rows are matched by position; "
                f"pass `{other}.loc[{name}.index]`, or `.to_numpy()` of both if positions are right"
            )
