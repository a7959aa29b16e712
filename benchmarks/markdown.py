"""Tables in Markdown, and their places between markers in a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def filled(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Replace what is between the markers of each table by the table.

    >>> filled("<!-- a: begin -->old<!-- a: end -->", {"a": lambda: "new"}).split()[4:5]
    ['new']
    """
    for name, make in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Write a table.

    >>> print(markdown(["a"], [["1"]]))
    | a |
    |---|
    | 1 |
    """
    return "\n".join([_line(header), "|" + "---|" * len(header), *map(_line, rows)])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def interval(cell: Mapping[str, float] | None, factor: float = 1.0, digits: int = 3, sign: str = "") -> str:
    """Write a mean with its interval, or "never" for none.

    >>> interval({"mean": 0.5, "low": 0.4, "high": 0.6}, 100, 1, "+")
    '+50.0 [+40.0, +60.0]'
    """
    if cell is None:
        return "never"
    mean, low, high = (
        format(round(factor * cell[key], digits) + 0.0, f"{sign}.{digits}f")  # a rounded zero has no sign
        for key in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}]"
