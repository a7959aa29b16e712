"""Numbers for the names in a column, by which they are found in another one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

import numpy as np
import pandas as pd

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")  # as one writes it without need: 7, -7, 7.50, not 007


def number_names(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the number of the name in each row, and the names in the order of their numbers.

    Where all names are plain numbers, 1.0 is 1. With one like 007 they are codes, each another as it is written.

    >>> number_names(pd.Series(["10", "9", "9.0"])), number_names(pd.Series(["9", "009", "b"]))
    ((array([1, 0, 0]), ['9', '10']), (array([1, 0, 2]), ['009', '9', 'b']))
    """
    codes, found = pd.factorize(column)
    written = [str(name) for name in found]
    numbers = are_numbers(written)
    names = [_by_value(name) for name in written] if numbers else written
    ordered = sorted(set(names), key=Decimal if numbers else None)
    return pd.Index(ordered).get_indexer(pd.Index(names))[codes], ordered


def find_names(names: Sequence[str], column: pd.Series) -> np.ndarray:
    """Return the numbers that `number_names` gave to names, for another column; -1 for those that are new."""
    codes, found = pd.factorize(column)
    written = [str(name) for name in found]
    wanted = [_by_value(name) for name in written] if are_numbers(names) else written
    return pd.Index(names, dtype=object).get_indexer(pd.Index(wanted, dtype=object))[codes]


def are_numbers(names: Iterable[str]) -> bool:
    """Tell whether all names are numbers as one writes them without need: 7, -7 or 7.50, but not 007."""
    return all(_NUMBER.fullmatch(name.strip()) for name in names)


def _by_value(name: str) -> str:
    """Write 1 for 1.0 and 1.5 for 1.50; leave 007, and whatever is not a number, as it is."""
    stripped = name.strip()
    if not _NUMBER.fullmatch(stripped):
        return stripped
    value = stripped.rstrip("0").rstrip(".") if "." in stripped else stripped
    return "0" if value == "-0" else value
