"""The only sheet of a workbook of Excel: what its cells show, and a sentence where they show what is no value."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime, time
from pathlib import Path
from typing import Any, NamedTuple

from training.errors import UsageError
from training.reading.kinds import plain
from training.reading.readers.rows import Fault, Record, Rows, collect

_UNCALCULATED = "open the file in Excel or LibreOffice and save it, or write values in the place of formulas"


class _Flaw(NamedTuple):
    """A cell that holds no value, although it may look like one."""

    row: int
    place: int
    what: str
    remedy: str


def read_sheet(path: Path, names: Sequence[str] | None, wanted: Sequence[str]) -> Rows:
    """Read the wanted columns of the only sheet; rows that are hidden are told.

    Args:
        path: of an xlsx file.
        names: of the columns, if it has no header.
        wanted: names of columns.

    Raises:
        UsageError: it cannot be read, has several sheets, or a cell of these columns has no value of its own.
    """
    sheet = _only_sheet(path, results=False)
    formulas = [(cell.row, cell.column - 1) for cells in sheet.iter_rows() for cell in cells if cell.data_type == "f"]
    if formulas:
        sheet = _only_sheet(path, results=True)
    flaws = [*_failed(sheet), *_merged(sheet), *_uncalculated(sheet, formulas)]
    try:
        rows = collect(_records(sheet), names, wanted)
        _refuse(flaws, [rows.header.index(name) for name in rows.columns], rows.header)
    except Fault as fault:
        remedy = fault.remedy or "move or delete what is outside of the table"
        raise UsageError(f"row {fault.line} of {path} {fault.reason}; {remedy}") from fault
    _tell_of_hidden(path, sheet, rows.lines)
    return rows


def _only_sheet(path: Path, results: bool) -> Any:
    """Return the sheet, with formulas or with their results.

    It is held as a whole: read part by part it would end where its own statement of its size does, which can be wrong.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise UsageError(f"{path} needs openpyxl (pip install openpyxl); or save it as csv (UTF-8)") from error
    try:
        book = openpyxl.load_workbook(path, data_only=results)
    except Exception as error:  # the library raises many kinds; all mean that it is not an xlsx file
        raise UsageError(f"{path} cannot be read as xlsx: {error}; save it again, or as csv (UTF-8)") from error
    if len(book.worksheets) != 1:
        raise UsageError(
            f"{path} has {len(book.worksheets)} sheets ({', '.join(book.sheetnames[:5])}); save the one that you "
            "mean as a file of its own"
        )
    return book.worksheets[0]


def _records(sheet: Any) -> Iterator[Record]:
    """Yield rows that are not empty, all as wide as the first one at least; whole numbers without a point."""
    width = 0
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        fields = [_shown(value) for value in cells]
        while fields and not fields[-1]:
            fields.pop()
        if fields:
            width = width or len(fields)
            yield Record(number, fields + [None] * (width - len(fields)))


def _shown(value: Any) -> str | None:
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, datetime) and value.time() == time():
        return str(value.date())
    if isinstance(value, str) and "_x" in value:  # Excel writes characters by their numbers: _x000D_
        from openpyxl.utils.escape import unescape

        return str(unescape(value))
    return None if value is None else str(value)


def _failed(sheet: Any) -> Iterator[_Flaw]:
    """Yield cells whose formula fails: what they show is not a text."""
    for cells in sheet.iter_rows():
        for cell in cells:
            if cell.data_type == "e":
                yield _Flaw(cell.row, cell.column - 1, f"shows the error {cell.value}", "correct its formula")


def _merged(sheet: Any) -> Iterator[_Flaw]:
    """Yield cells that show what another one holds."""
    remedy = "undo that, and write the value in each row"
    for held in sheet.merged_cells.ranges:
        for row, column in [place for places in held.rows for place in places][1:]:
            yield _Flaw(row, column - 1, f"is merged with other cells ({held.coord})", remedy)


def _uncalculated(sheet: Any, formulas: Sequence[tuple[int, int]]) -> Iterator[_Flaw]:
    """Yield cells with a formula, if none has a result: programs that calculate save those of all."""
    if all(sheet.cell(row, place + 1).value is None for row, place in formulas):
        for row, place in formulas:
            yield _Flaw(row, place, "holds a formula without a result", _UNCALCULATED)


def _refuse(flaws: Sequence[_Flaw], places: Sequence[int], header: Sequence[str]) -> None:
    """Raise for the first flaw in these columns."""
    if found := [flaw for flaw in flaws if flaw.place in places]:
        first = min(found)
        raise Fault(first.row, f"{first.what} in the column {header[first.place]!r}", remedy=first.remedy)


def _tell_of_hidden(path: Path, sheet: Any, rows: Sequence[int]) -> None:
    known = sheet.row_dimensions
    hidden = [row for row in rows if row in known and known[row].hidden]
    if hidden:
        warnings.warn(
            f"{len(hidden):,} of {len(rows):,} rows of {path} are hidden, as by a filter, the first is row "
            f"{hidden[0]}, and are read like the others; delete them if they are not meant",
            stacklevel=2,
        )
