"""What a task wants of a column: texts, names of classes, numbers or pictures; or a sentence about why it is not that.

A kind is a function of a column. It returns the values as Arrow holds them, with what `datasets` calls a feature; the
values may hold nulls where nothing is written.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Image

from training.errors import UsageError
from training.reading.names import are_numbers
from training.reading.numbers import MISSING_WORDS, may_be_thousands, number_of, remedy
from training.reading.spoiled import LISTED, tell_of_spoiled_names, tell_of_spoiled_texts
from training.reading.visible import BLANK_FOR_ARROW, composed

HIDDEN = -1  # the label of rows whose class a benchmark keeps to itself
_EXACT = 1e16  # up to here, whole numbers are written by all their digits
_SHOWN, _SHOWN_OF_PATHS = 40, 300
_NUL = "a text cannot hold NUL characters: remove them, or export the file again"
_TRUTHS = {"true": "True", "false": "False"}


class Column(NamedTuple):
    """A column of a file or a data set.

    Attributes:
        name: of the column.
        values: as they were read.
        feature: what `datasets` says of them; None for files, which have texts or whatever JSON knows.
        source: what it is a column of, such as "data.csv" or "the train data".
        place: number of a row -> where it stands, such as "line 7 of data.csv".
        folder: where relative paths start.
    """

    name: str
    values: pa.ChunkedArray | list[Any]
    feature: Any
    source: str
    place: Callable[[int], str]
    folder: str = "."

    def listed(self) -> list[Any]:
        """Return the values as Python's."""
        return self.values if isinstance(self.values, list) else self.values.to_pylist()

    def wrong(self, row: int, value: object, needed: str) -> UsageError:
        """Return the error of a value that does not fit."""
        return UsageError(f"column {self.name!r} holds {shown(value)} in {self.place(row)}; {needed}")


Typed = tuple[pa.Array | pa.ChunkedArray, Any]
Kind = Callable[[Column], Typed]


class Placed:
    """A kind that remembers the columns it was given, one below the other, to tell where a row stands."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.columns: list[Column] = []

    def __call__(self, column: Column) -> Typed:
        """Return what the kind returns."""
        self.columns.append(column)
        return self.kind(column)

    def forget(self) -> None:
        """Forget the columns, so that the next one is the first again."""
        self.columns.clear()

    def place(self, row: int) -> str:
        """Return where a row stands, such as "line 7 of data.csv"."""
        for column in self.columns:
            if row < len(column.values):
                return column.place(row)
            row -= len(column.values)
        raise IndexError(row)


def shown(value: object) -> str:
    """Return the value for an error, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def text(column: Column) -> Typed:
    """Return texts as they are written; one without a visible character counts as missing.

    Raises:
        UsageError: column and line of another value.
    """
    values = _strings(column, column.values)
    tell_of_spoiled_texts(column.name, column.source, values, column.place)
    blank = pc.match_substring_regex(values, BLANK_FOR_ARROW)
    return pc.if_else(blank, pa.scalar(None, values.type), values) if pc.any(blank).as_py() else values, None


def written(column: Column) -> Typed:
    """Return names as they are written, of integers and of whole numbers too: 1.0 that was a number is 1.

    Where all others are numbers, words such as NA are nothing.

    Raises:
        UsageError: column and line of another value.
    """
    values = _strings(column, _without_missing(_as_written(column)))
    tell_of_spoiled_names(column.name, column.source, values, column.place)
    return values, None


def class_name(column: Column) -> Typed:
    """Return names of classes, or numbers of classes that the data set names; invisible ends are cut.

    Where all others are numbers, words such as NA are nothing. Where all are true or false, they are the same in any
    spelling: JSON and Excel write them in other letters than pandas.

    Raises:
        UsageError: column and line of a real number, of something that is neither a number nor a text, or of a class
            that the data set does not name.
    """
    if isinstance(column.feature, ClassLabel):
        return _declared(column), column.feature
    names = [(composed(value) or None) if isinstance(value, str) else value for value in _as_written(column)]
    if lists := [row for row, name in enumerate(names) if name and LISTED.match(name)]:
        remedy = "write one in each row (finetune has --task multilabel for several)"
        raise column.wrong(lists[0], names[lists[0]], f"it looks like a list, and a class is one name; {remedy}")
    names = _without_missing(names)
    known = {name for name in names if name is not None}
    if known and {name.lower() for name in known} <= _TRUTHS.keys():
        names = [name and _TRUTHS[name.lower()] for name in names]
    if known and are_numbers(known):
        for row, name in enumerate(names):
            if name is not None and float(name) % 1:
                raise column.wrong(
                    row, float(name), "real numbers are not class names: pass --task regression to predict numbers"
                )
    values = _strings(column, names)
    tell_of_spoiled_names(column.name, column.source, values, column.place)
    return values, None


def number(column: Column) -> Typed:
    """Return finite numbers; words such as NA are missing values. Points that may separate thousands are reported.

    Raises:
        UsageError: column and line of a value that is not a finite number.
    """
    listed = column.listed()
    found = [number_of(value) for value in listed]
    for row, value in enumerate(found):
        if value is not None and math.isinf(value):
            raise column.wrong(row, listed[row], f"it must be a finite number{remedy(listed[row], listed)}")
    if (entry := may_be_thousands(listed)) is not None:
        warnings.warn(
            f"column {column.name!r} of {column.source} holds numbers such as {entry}, which is read as "
            f"{float(entry):g}; if the points separate thousands, remove them",
            stacklevel=3,
        )
    return pa.array(found, pa.float64()), None


def picture(column: Column) -> Typed:
    """Return stored pictures: those of the data set, or files, whose relative paths start at the folder of the data.

    Raises:
        UsageError: the column holds something else, or files are not there.
    """
    if isinstance(column.feature, Image):
        return column.values, Image(decode=False)
    stored: list[dict[str, Any] | None] = []
    missing = []
    for row, value in enumerate(column.listed()):
        stored.append(_stored(column, row, value))
        path = stored[-1]["path"] if stored[-1] and stored[-1]["bytes"] is None else None
        if path is not None and not os.path.isfile(path):
            missing.append((row, path))
    if missing:
        raise UsageError(
            f"{len(missing)} images in column {column.name!r} of {column.source} are not there, the first is "
            f"{missing[0][1][:_SHOWN_OF_PATHS]} ({column.place(missing[0][0])}); paths start at {column.folder}, or "
            "are absolute; pictures with an address, or in base64, have to be saved as files first"
        )
    return pa.array(stored, pa.struct({"bytes": pa.binary(), "path": pa.string()})), Image(decode=False)


def _stored(column: Column, row: int, value: Any) -> dict[str, Any] | None:
    """Return a picture as `datasets` stores it: its bytes, or the path of its file."""
    if value is None or (isinstance(value, dict) and set(value) == {"bytes", "path"}):
        return value if value and any(value.values()) else None
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if not isinstance(value, str):
        raise column.wrong(row, value, "it must hold images, or paths of images")
    path = os.path.join(column.folder, os.path.expanduser(value.strip()))
    if "\\" in value and not os.path.isfile(path):  # as Windows writes paths
        path = os.path.join(column.folder, value.strip().replace("\\", "/"))
    return {"bytes": None, "path": path}


def plain(value: object) -> str | None:
    """Return a name as it is written, or None for a list, or a real number that is not finite.

    >>> [plain(value) for value in ("01", 1, 1.0, 0.5, 2.0**70, True, [1])]
    ['01', '1', '1', '0.5', '1.1805916207174113e+21', 'True', None]
    """
    if isinstance(value, Decimal):
        value = float(value) if value % 1 else int(value)
    if isinstance(value, float):
        exact = value.is_integer() and abs(value) < _EXACT  # inf and nan are none
        return str(int(value)) if exact else repr(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, (str, int)) else None


def _as_written(column: Column) -> Sequence[str | None]:
    found = column.listed()
    names = [value if isinstance(value, str) or value is None else plain(value) for value in found]
    for row, (value, name) in enumerate(zip(found, names, strict=True)):
        if name is None and value is not None and not (isinstance(value, float) and math.isnan(value)):
            raise column.wrong(row, value, "it must hold one integer or text in each row")
    return names


def _without_missing(names: Sequence[str | None]) -> list[str | None]:
    """Return the names without words such as NA, if all others are numbers."""
    known = {name for name in names if name is not None}
    others = known - MISSING_WORDS
    missing = MISSING_WORDS if others and are_numbers(others) else ()
    return [None if name in missing else name for name in names]


def _declared(column: Column) -> pa.Array | pa.ChunkedArray:
    """Return the numbers of classes; -1 in all rows says that they are hidden."""
    values, names = column.listed(), column.feature.names
    if set(values) != {HIDDEN}:
        for row, value in enumerate(values):
            if value is not None and not 0 <= value < len(names):
                raise column.wrong(row, value, f"it must be the number of one of {len(names)} classes: drop such rows")
    return column.values if isinstance(column.values, pa.ChunkedArray) else pa.array(values, pa.int64())


def _strings(column: Column, values: pa.ChunkedArray | Sequence[Any]) -> pa.Array | pa.ChunkedArray:
    """Return the values as strings, or raise with column and line of a value that is not a text, or not UTF-8."""
    if isinstance(values, pa.ChunkedArray) and (
        pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    ):
        if rows := pc.indices_nonzero(pc.match_substring(values, "\0")).to_pylist():
            raise column.wrong(rows[0], values[rows[0]].as_py(), _NUL)
        return values
    entries = values.to_pylist() if isinstance(values, pa.ChunkedArray) else values
    for row, value in enumerate(entries):
        if value is not None and not isinstance(value, str):
            raise column.wrong(row, value, "every entry must be a text")
        if value is not None and (reason := broken(value)):
            raise column.wrong(row, value, reason)
    return pa.array(entries, pa.string())


def broken(value: str) -> str | None:
    """Return why a text cannot be one."""
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        return "half of a surrogate pair is not a character: save the file again as UTF-8"
    return _NUL if "\0" in value else None


def empty_rows(values: pa.Array | pa.ChunkedArray) -> list[int]:
    """Return the rows in which nothing is written."""
    return pc.indices_nonzero(pc.is_null(values)).to_pylist() if values.null_count else []
