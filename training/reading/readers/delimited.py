"""Csv and tsv files: which character separates, and what quotation marks mean.

Python's `csv` reads; what is decided here is how. A reading fits if every row has as many fields as the header. If
quotation marks can be read in two ways that both fit and give other rows, the user has to say which is meant.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from training.errors import UsageError
from training.reading.numbers import NUMBER
from training.reading.readers.rows import Fault, Record, Rows, collect, records
from training.settings.data import FileArguments

_SEPARATORS = ",;\t|"
_FIRST_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # read by Excel
_Read = Callable[[str], Rows]


class _Source(NamedTuple):
    """A file whose lines can be read again and again, after one that only says how they are separated."""

    lines: Callable[[], Iterator[str]]
    first: int
    separator: str
    spaced: bool = False  # a space after each separator, which belongs to no field

    def records(self, quoting: str) -> Iterator[Record]:
        return records(self.lines(), self.separator, quoting, self.first, self.spaced)


def read_delimited(
    path: Path, lines: Callable[[], Iterator[str]], options: FileArguments, wanted: Sequence[str]
) -> Rows:
    """Read the wanted columns of a csv or tsv file.

    Args:
        path: for errors, and for what its name says.
        lines: gives the lines of the file, from the first one, each time it is called.
        options: separator, quotation marks and names, where they were passed.
        wanted: names of columns.

    Raises:
        UsageError: a line does not fit the header, or quotation marks can be read in two ways; the text names the line.
    """
    with _long_fields():
        source = _source(path, lines, options, wanted)
        read = partial(_read, source, options.column_names, wanted)
        try:
            if options.quoting != "auto":
                return read(options.quoting)
            return _tabs(path, source, read) if source.separator == "\t" else _commas(path, source, read)
        except Fault as fault:
            usual = (
                f"enclose texts with {source.separator!r} or line breaks in quotation marks, or pass --separator, or "
                '--quoting (none if quotation marks are part of the texts, backslash if \\" is one inside)'
            )
            raise UsageError(f"line {fault.line} of {path} {fault.reason}; {fault.remedy or usual}") from fault


def _read(source: _Source, names: Sequence[str] | None, wanted: Sequence[str], quoting: str) -> Rows:
    return collect(source.records(quoting), names, wanted)


def _commas(path: Path, source: _Source, read: _Read) -> Rows:
    """Take quotation marks to enclose, as the standard says, unless they do not fit each other, and enclose nothing."""
    try:
        rows = read("double")
    except Fault as fault:
        try:
            others = read("none") if fault.marks else None
        except Fault:
            others = None
        if others is None or others.whole or _enclosed(others.header):
            raise
        return others
    _refuse_swallowed(path, source, rows)
    return rows


def _tabs(path: Path, source: _Source, read: _Read) -> Rows:
    """Take quotation marks for parts of the texts, as exports write them, unless they tell otherwise."""
    try:
        rows = read("none")
    except Fault:
        try:
            quoted = read("double")
        except Fault:
            quoted = None
        if quoted is None:
            raise
        _refuse_swallowed(path, source, quoted)
        return quoted
    if _enclosed(rows.header) or rows.doubled or (rows.whole and not rows.bare):
        quoted = read("double")
        _refuse_swallowed(path, source, quoted)
        return quoted
    return rows


def _enclosed(header: list[str]) -> bool:
    return any(len(name) > 1 and name[0] == name[-1] == '"' for name in header)


def _refuse_swallowed(path: Path, source: _Source, rows: Rows) -> None:
    """Raise if a quoted text over several lines holds what looks like rows.

    That is what an opening mark that nobody closed makes of the rows up to the next mark. A line looks like a row if it
    has as many fields or more, and one of them is what rows have in this column: the same, or a number as well.
    """
    inside: list[tuple[Record, int, str]] = []
    for record in rows.joined:
        if len(rows.header) == 1:
            raise _ambiguous(path, record)
        inside += [(record, *one) for one in _inner_fields(record, source.separator, len(record.fields))]
    if not inside:
        return
    looked_for = {(place, field) for _, place, field in inside}
    numbers = {place for place, field in looked_for if NUMBER.fullmatch(field)}
    seen: set[tuple[int, str]] = set()
    for record in source.records("double"):
        if record.line < rows.lines[0]:
            continue
        held = {
            (place, (field or "").strip()) for place, field in enumerate(record.fields) if "\n" not in (field or "")
        }
        seen |= looked_for & held
        numbers -= {place for place, field in held if not NUMBER.fullmatch(field)}
    for record, place, field in inside:
        if (place, field) in seen or place in numbers:
            raise _ambiguous(path, record)


def _inner_fields(record: Record, separator: str, width: int) -> Iterator[tuple[int, str]]:
    """Yield place and content of what would be fields, if the marks did not enclose: not those outside of the marks."""
    last = len(record.physical) - 1
    for number, line in enumerate(record.physical):
        fields = next(csv.reader([line], delimiter=separator, quoting=csv.QUOTE_NONE), [])
        if len(fields) < width:
            continue
        begins = next((place for place, field in enumerate(fields) if field[:1] == '"'), width)
        ends = max((place for place, field in enumerate(fields) if field[-1:] == '"'), default=0)
        chosen = range(begins + 1 if number == 0 else 0, min(width, ends) if number == last else width)
        yield from ((place, fields[place].strip()) for place in chosen)


def _ambiguous(path: Path, record: Record) -> UsageError:
    last = record.line + len(record.physical) - 1
    return UsageError(
        f"line {record.line} of {path} begins a quoted text that ends in line {last} and holds what may be rows; pass "
        "--quoting none if quotation marks are part of the texts, or --quoting double if they enclose them"
    )


def _source(path: Path, lines: Callable[[], Iterator[str]], options: FileArguments, wanted: Sequence[str]) -> _Source:
    """Find the separator: as passed, as the first line says, or by which the header has the wanted columns."""
    first = next(lines(), "")
    declared = _FIRST_LINE.fullmatch(first)
    rest = (lambda: _after_first(lines)) if declared else lines
    number = 2 if declared else 1
    if separator := options.separator or (declared and declared.group(1)):
        return _with_spaces(_Source(rest, number, separator))
    usual = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","
    candidates = [usual, *(one for one in _SEPARATORS if one != usual)]
    headers = {one: _header(_Source(rest, number, one)) for one in candidates}
    names = options.column_names
    fitting = [
        one for one in candidates if (len(headers[one]) == len(names) if names else set(wanted) <= set(headers[one]))
    ]
    longest = max(candidates, key=lambda one: len(headers[one]))
    found = fitting[0] if fitting else usual if len(headers[usual]) > 1 else longest
    return _with_spaces(_Source(rest, number, found))


def _with_spaces(source: _Source) -> _Source:
    """Say that a space follows each separator, if it does in the header; a mark after it encloses, too."""
    fields = next(source.lines(), "").rstrip("\r\n").split(source.separator)[1:]
    return source._replace(spaced=bool(fields) and all(field[:1] == " " for field in fields))


def _after_first(lines: Callable[[], Iterator[str]]) -> Iterator[str]:
    rest = lines()
    next(rest)
    return rest


def _header(source: _Source) -> list[str]:
    for quoting in ("double", "none"):
        try:
            return [(name or "").strip() for name in next(source.records(quoting), Record(1, [])).fields]
        except Fault:
            continue
    return []


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let a field be as long as it is; `csv` ends at 128 KiB."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)
