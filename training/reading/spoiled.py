"""Signs that an export has spoiled texts or names before they came here: told, since nobody can say what they were."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

# How a list begins that was written as a text: by Python, JSON, or numpy.
LISTED = re.compile(r"""\[['"]|\{['"]|\((?:'[^']*'|"[^"]*"),\s*['")]|\[\s*-?\d+(?:\s+-?\d+)*\s*\]$""")
_PRINTED = rf"""^\s*(?:{LISTED.pattern}|b'[^']*'$|b"[^"]*"$)"""
_FAILED = r"^\s*#(REF!|NAME\?|VALUE!|DIV/0!|NUM!|NULL!|SPILL!|CALC!)\s*$"  # what a spreadsheet shows of a formula
_LOST = re.compile("[\u0080-\u0084\u0086-\u009f\ufffd]")  # no text has these: the first are quotation marks in Windows
_BESIDE_LETTERS = "\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u0401-\u040f\u0451-\u0491\u2013-\u203a\u20ac\u2116\u2122"
_MISREAD = f"[\u00c2-\u00f4\u0412-\u0444][{_BESIDE_LETTERS}]|{_LOST.pattern}"  # as two bytes of UTF-8 look, at least
_ROUNDED = r"^\s*[+-]?[0-9](\.[0-9]+)?[eE]\+[0-9]{2,}\s*$"  # 1.23457E+11, as no program writes a whole number
_SHOWN = 40
Place = Callable[[int], str]  # where a row stands
Strings: TypeAlias = pa.Array | pa.ChunkedArray


def tell_of_spoiled_texts(name: str, source: str, values: Strings, place: Place) -> None:
    """Warn of texts that Python printed, that a spreadsheet shows instead of a text, or that have a wrong encoding."""
    held = values.drop_null()
    if len(held) and pc.all(pc.match_substring_regex(held, _PRINTED)).as_py():
        warnings.warn(
            f"all texts of the column {name!r} of {source} look like lists or bytes of Python, such as "
            f"{_shown(held[0].as_py())}, and are read as they are written; write what is inside of them, if this is "
            "not meant",
            stacklevel=4,
        )
    tell_of_spoiled_cells(name, source, values, place)


def tell_of_spoiled_names(name: str, source: str, values: Strings, place: Place) -> None:
    """Warn of names that are rounded numbers, that a spreadsheet shows instead of a name, or of a wrong encoding."""
    tell_of_spoiled_cells(name, source, values, place)
    _tell(name, source, values, place, _rows(values, _ROUNDED),
          "are numbers that have been rounded, so that several may be one now",
          "export the column as texts")  # fmt: skip


def tell_of_spoiled_cells(name: str, source: str, values: Strings, place: Place) -> None:
    """Warn of what a spreadsheet shows instead of a text, and of a wrong encoding."""
    _tell(name, source, values, place, _rows(values, _FAILED), "are what a spreadsheet shows of a formula that fails",
          "correct them there: a text that begins with = or - was taken for one")  # fmt: skip
    misread = [row for row in _rows(values, _MISREAD) if _is_misread(values[row].as_py())]
    _tell(name, source, values, place, misread, "hold characters that came out of a wrong encoding",
          "export the data again as UTF-8, or pass another --encoding, such as cp1252 for latin-1")  # fmt: skip


def _tell(
    name: str,
    source: str,
    values: Strings,
    place: Place,
    rows: Sequence[int],
    what: str,
    remedy: str,
) -> None:
    if rows:
        warnings.warn(
            f"{len(rows):,} of {len(values):,} entries of the column {name!r} of {source} {what}, such as "
            f"{_shown(values[rows[0]].as_py())} in {place(rows[0])}; {remedy}",
            stacklevel=5,
        )


def _rows(values: Strings, pattern: str) -> list[int]:
    found: list[int] = pc.indices_nonzero(pc.fill_null(pc.match_substring_regex(values, pattern), False)).to_pylist()
    return found


def _is_misread(text: str) -> bool:
    r"""Tell whether a text is UTF-8 that was read as Western or Cyrillic Windows, or has lost characters.

    >>> [_is_misread(text) for text in ("caf\u00c3\u00a9", "caf\u00e9", "\u00c2\u00ab", "lost \ufffd")]
    [True, False, True, True]
    """
    return bool(_LOST.search(text)) or any(_is_utf_8_read_as(page, text) for page in ("cp1252", "cp1251"))


def _is_utf_8_read_as(page: str, text: str) -> bool:
    try:
        held = text.encode(page)
        held.decode("utf-8")
    except UnicodeError:
        return False
    return not held.isascii()


def _shown(text: str) -> str:
    return repr(text) if len(repr(text)) <= _SHOWN else f"{repr(text)[:_SHOWN]}..."
