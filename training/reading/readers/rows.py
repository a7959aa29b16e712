"""Rows of text fields, collected as columns with the line that each row stands in."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

_PART = 10_000  # rows that are collected at a time
_QUOTING: dict[str, dict[str, Any]] = {
    "double": {"doublequote": True},
    "backslash": {"doublequote": True, "escapechar": "\\"},
    "none": {"quoting": csv.QUOTE_NONE},
}


class Fault(Exception):
    """A line does not fit the header, or its quotation marks (`marks`) do not fit each other.

    `reason` follows "line 7 of data.csv"; `remedy`, if there is one, says what to do instead of the usual.
    """

    def __init__(self, line: int, reason: str, marks: bool = False, remedy: str | None = None) -> None:
        super().__init__(line, reason)
        self.line, self.reason, self.marks, self.remedy = line, reason, marks, remedy


class Record(NamedTuple):
    """The fields of a row, the line in which it begins, and its physical lines if there are several."""

    line: int
    fields: Sequence[str | None]
    physical: Sequence[str] = ()


class Rows(NamedTuple):
    """The wanted columns of a file.

    Attributes:
        header: names of all its columns.
        columns: the wanted ones that there are, with null where nothing is written.
        lines: where each row begins.
        joined: rows of several physical lines.
        whole: fields that quotation marks enclose.
        bare: of these and other fields that begin with one, those that need no marks, or go on after the second one.
        doubled: enclosed fields with marks that are doubled, as writers of csv files do.
    """

    header: list[str]
    columns: dict[str, pa.ChunkedArray]
    lines: Sequence[int]
    joined: list[Record]
    whole: int
    bare: int
    doubled: int


def records(
    lines: Iterable[str], separator: str, quoting: str, first: int = 1, spaced: bool = False
) -> Iterator[Record]:
    """Yield the rows of a text with a separator; empty lines are left out.

    Args:
        lines: with their ends.
        separator: between fields.
        quoting: double, backslash or none.
        first: number of the first line.
        spaced: leave out spaces after a separator.

    Raises:
        Fault: quotation marks do not fit.
    """
    taken: list[str] = []

    def watched() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = csv.reader(watched(), delimiter=separator, strict=True, skipinitialspace=spaced, **_QUOTING[quoting])
    line = first
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Fault(line, _refused_by_csv(str(error), line + len(taken) - 1), marks=True) from error
        if fields:
            yield Record(line, fields, tuple(taken) if len(taken) > 1 else ())
        line += len(taken)
        taken.clear()


def collect(rows: Iterator[Record], names: Sequence[str] | None, wanted: Sequence[str]) -> Rows:
    """Collect the wanted columns of rows that are as long as the header.

    Empty fields beyond the header are left out, if every row has as many of them.

    Args:
        rows: the header first, unless there are names.
        names: of the columns, of a file without a header.
        wanted: names of columns.

    Raises:
        Fault: a row has more fields or fewer, or the header names a wanted column twice.
    """
    header = list(names or ())
    start = 1
    if not names:
        first = next(rows, None)
        header = [] if first is None else [(name or "").strip() for name in first.fields]
        start = 1 if first is None else first.line
    if twice := [name for name in wanted if header.count(name) > 1]:
        raise Fault(start, f"names the column {twice[0]!r} {header.count(twice[0])} times", remedy="rename all but one")
    places = {name: header.index(name) for name in wanted if name in header}
    parts: dict[str, list[pa.Array]] = {name: [] for name in places}
    held: list[Record] = []
    lines, joined, surplus = array("q"), [], -1
    whole = bare = doubled = 0
    for record in rows:
        surplus = _surplus(record, header, surplus)
        _refuse_header(record, header, named=bool(names))
        lines.append(record.line)
        if record.physical:
            joined.append(record)
        for field in record.fields:
            if field and field[0] == '"':
                whole += len(field) > 1 and field[-1] == '"'
                doubled += field[-1] == '"' and '""' in field[1:-1]
                bare += not _needs_marks(field)
        held.append(record)
        if len(held) == _PART:
            _store(held, places, parts)
    _store(held, places, parts)
    columns = {name: pa.chunked_array(found, pa.string()) for name, found in parts.items()}
    return Rows(header, columns, lines, joined, whole, bare, doubled)


def _refuse_header(record: Record, header: list[str], named: bool) -> None:
    """Raise if a row is the header again, as in files that were put below each other."""
    if len(header) > 1 and [(field or "").strip() for field in record.fields[: len(header)]] == header:
        remedy = "leave --column_names out" if named else "delete it"
        raise Fault(record.line, "repeats the names of the columns", remedy=remedy)


def _surplus(record: Record, header: list[str], surplus: int) -> int:
    """Return by how many fields the row is longer than the header: as many as the rows before it, and empty ones."""
    more = len(record.fields) - len(header)
    empty = more >= 0 and not any(record.fields[len(header) :])
    if empty and surplus in (-1, more):
        return more
    shown = ", ".join(header[:6]) + (", ..." if len(header) > 6 else "")
    fields = "1 field" if len(record.fields) == 1 else f"{len(record.fields)} fields"
    columns = "is 1 column" if len(header) == 1 else f"are {len(header)} columns"
    others = f", and {surplus + len(header)} in the lines before" if empty and surplus != -1 else ""
    raise Fault(record.line, f"has {fields}, but there {columns} ({shown}){others}")


def _store(held: list[Record], places: dict[str, int], parts: dict[str, list[pa.Array]]) -> None:
    for name, place in places.items():
        parts[name].append(pa.array([record.fields[place] or None for record in held], pa.string()))
    held.clear()


def _needs_marks(field: str) -> bool:
    """Tell whether a writer of csv files would have enclosed what stands between the marks of this raw field."""
    inner = field[1:-1]
    plain = inner.replace('""', "")
    return len(field) > 1 and field[-1] == '"' and '"' not in plain and (plain != inner or "," in inner)


def _refused_by_csv(error: str, last: int) -> str:
    if "unexpected end" in error:
        return "begins a quoted text that never ends"
    if "expected after" in error:
        return f"begins a quoted text that continues after its second quotation mark (line {last})"
    return f"cannot be read ({error})"
