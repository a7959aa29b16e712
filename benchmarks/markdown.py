"""Result files, and tables made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent


def result(name: str) -> Any:
    return json.loads((FOLDER / "results" / f"{name}.json").read_text(encoding="utf8"))


def filled(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """`text` with what is between the markers of each table replaced by the table.

    >>> filled("<!-- a: begin -->old<!-- a: end -->", {"a": lambda: "new"}).split()[4:5]
    ['new']
    """
    for name, make in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """
    >>> print(markdown(["a"], [["1"]]))
    | a |
    |---|
    | 1 |
    """
    return "\n".join([_line(header), "|" + "---|" * len(header), *map(_line, rows)])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def interval(cell: dict[str, float] | None, factor: float = 1.0, digits: int = 3, sign: str = "") -> str:
    """A mean with its interval; "never" for none."""
    if cell is None:
        return "never"
    mean, low, high = (format(factor * cell[key], f"{sign}.{digits}f") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
