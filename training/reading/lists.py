"""Columns that hold a list in each row: words, a tag for each word, or labels; and columns of 0 and 1, one a label."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import ClassLabel

from training.reading.kinds import Column, Typed, broken, plain
from training.reading.spoiled import LISTED, tell_of_spoiled_cells
from training.reading.visible import composed, is_blank

NO_TAG = "-100"  # of words that have none, as torch and transformers mark them
_COMMAS = re.compile(r"[^\s,\[\]()]+(,[^\s,\[\]()]+)+")  # O,B-LOC
_NO_LIST = "it looks like a list, but is not one, or others are not"
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false")


class _Listing(NamedTuple):
    """What is listed, how a text lists it, how one tells that it would cut a list, and the remedy."""

    unit: str
    split: Callable[[str], list[str]]
    cuts: Callable[[str], bool]
    remedy: str


def _labels_in(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,;|\n]", text) if part.strip()]


def _cuts_brackets(text: str) -> bool:
    """Tell whether a comma or the like separates a bracket at the start from the one that closes it."""
    first = next(iter(_labels_in(text)), "")
    return first[:1] in ("[", "(", "{") and sum(map(first.count, "[({")) != sum(map(first.count, "])}"))


_WORDS = _Listing("tag", str.split, lambda text: False, "write lists of texts, or texts separated by spaces")
_LABELS = _Listing("label", _labels_in, _cuts_brackets, "write lists of labels, or labels separated by commas")


def words(column: Column) -> Typed:
    """Return the words of each row: a list, a list that was written as text, or a text with spaces between words.

    Raises:
        UsageError: column and line of a value that is neither.
    """
    found = _entries(column, {}, _WORDS)
    _tell_of_spoiled(column)
    return pa.array(found, pa.list_(pa.string())), None


def tags(column: Column) -> Typed:
    """Return the tags of each row, as `words` does; by name, where the data set numbers them; -100 is `NO_TAG`.

    Raises:
        UsageError: column and line of a value that is neither.
    """
    names = _names_of(column)
    named = names | {int(NO_TAG): NO_TAG} if names else names
    for row, value in enumerate(column.listed()):
        if isinstance(value, str) and _COMMAS.fullmatch(value.strip()):
            raise column.wrong(row, value, "separate tags by spaces and not by commas, or write lists")
    return pa.array(_named(column, named, _WORDS), pa.list_(pa.string())), None


def labels(column: Column) -> Typed:
    """Return the labels of each row: a list, a list that was written as text, or a text with commas between labels.

    A comma can be a semicolon, a bar or a line break. A row in which nothing is written has no label.

    Raises:
        UsageError: column and line of a value that is neither.
    """
    found = _named(column, _names_of(column), _LABELS)
    written = any(isinstance(value, str) for value in column.listed())
    if written and len(found) > 1 and all(row is None or len(row) < 2 for row in found):
        warnings.warn(
            f"no row of the column {column.name!r} of {column.source} holds several labels; they are separated by "
            "commas, semicolons, bars or line breaks, or written as lists",
            stacklevel=3,
        )
    return pa.array([row or [] for row in found], pa.list_(pa.string())), None


def truth(column: Column) -> Typed:
    """Return whether each row has a label: 1 and 0, or true and false.

    Raises:
        UsageError: column and line of another value.
    """
    found: list[bool | None] = []
    for row, value in enumerate(column.listed()):
        word = str(value).strip().lower()
        if value is not None and word not in (*_TRUE, *_FALSE):
            raise column.wrong(row, value, "it must be 1 or 0 (true or false): whether the row has this label")
        found.append(None if value is None else word in _TRUE)
    return pa.array(found, pa.bool_()), None


def captions(column: Column) -> Typed:
    """Return the captions of each row as a list: of one text, of several texts, or of those in a list written as text.

    Raises:
        UsageError: column and line of a value that is neither, or of a caption that is empty.
    """
    found = column.listed()
    texts = [value.strip() for value in found if isinstance(value, str)]
    are_lists = bool(texts) and all(value[:1] in ("[", "(") and _list_of(value) is not None for value in texts)
    rows = [_captions_of(column, row, value, are_lists) for row, value in enumerate(found)]
    _tell_of_spoiled(column)
    return pa.array(rows, pa.list_(pa.string())), None


def _tell_of_spoiled(column: Column) -> None:
    values = pa.array([value if isinstance(value, str) else None for value in column.listed()], pa.string())
    tell_of_spoiled_cells(column.name, column.source, values, column.place)


def _captions_of(column: Column, row: int, value: Any, are_lists: bool) -> list[str] | None:
    entries = value
    if isinstance(value, str):
        if not are_lists and LISTED.match(value.strip()):
            raise column.wrong(row, value, f"{_NO_LIST}: write lists of texts, or a caption in each row")
        entries = _list_of(value.strip()) if are_lists else None if is_blank(value) else [value]
    if entries is None:
        return None
    if not isinstance(entries, list) or not entries or not all(isinstance(one, str) for one in entries):
        raise column.wrong(row, value, "it must be a caption, or a list of captions, none of them empty")
    for entry in entries:
        if reason := "it holds an empty caption; leave that out" if is_blank(entry) else broken(entry):
            raise column.wrong(row, value, reason)
    return entries


def captions_if_any(column: Column) -> Typed:
    """Return the captions of each row, as `captions` does; none where nothing is written.

    Raises:
        UsageError: as `captions`.
    """
    rows = captions(column)[0].to_pylist()
    return pa.array([row or [] for row in rows], pa.list_(pa.string())), None


def _names_of(column: Column) -> dict[int, str]:
    """Return the names that the data set gives to the numbers in its lists."""
    inner = getattr(column.feature, "feature", None)
    return dict(enumerate(inner.names)) if isinstance(inner, ClassLabel) else {}


def _named(column: Column, names: dict[int, str], listing: _Listing) -> list[list[str] | None]:
    """Return the names in each row, without invisible ends."""
    found = [row and [composed(name) for name in row] for row in _entries(column, names, listing)]
    for row, own in enumerate(found):
        if own and "" in own:
            raise column.wrong(row, own, f"it holds an empty {listing.unit}; leave it out, or name it")
    return found


def _entries(column: Column, names: dict[int, str], listing: _Listing) -> list[list[str] | None]:
    found = column.listed()
    lists = _lists_of([value for value in found if isinstance(value, str)])
    rows: list[list[str] | None] = []
    for row, value in enumerate(found):
        entries = value
        if isinstance(value, str):
            entries = lists.get(value) if lists else listing.split(value) or None
            if lists and entries is None or not lists and (LISTED.match(value.strip()) or listing.cuts(value)):
                raise column.wrong(row, value, f"{_NO_LIST}: {listing.remedy}")
        if entries is not None and not isinstance(entries, (list, tuple)):
            raise column.wrong(row, value, listing.remedy)
        rows.append(None if entries is None else [_name(column, row, entry, names, listing.unit) for entry in entries])
    return rows


def _lists_of(texts: list[str]) -> dict[str, list[Any] | None]:
    """Return what the texts hold, if all are in brackets and any is a list; otherwise nothing."""
    if not {value.strip()[:1] + value.strip()[-1:] for value in texts} <= {"[]", "()"}:
        return {}
    held = {value: _list_of(value.strip()) for value in set(texts)}
    return held if any(entries is not None for entries in held.values()) else {}


def _list_of(value: str) -> list[Any] | None:
    """Return the list that a text holds as JSON or Python writes it, a tuple too, or None.

    Two texts without a comma between them, as numpy writes them, would be one for Python.
    """
    try:
        return found if isinstance(found := json.loads(value), list) else None
    except ValueError:
        pass
    try:
        kinds = [part.type for part in tokenize.generate_tokens(io.StringIO(value).readline)]
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError):
        return None
    seen = [kind for kind in kinds if kind not in (tokenize.NL, tokenize.NEWLINE)]
    glued = any(pair == (tokenize.STRING, tokenize.STRING) for pair in zip(seen, seen[1:], strict=False))
    return list(found) if isinstance(found, (list, tuple)) and not glued else None


def _name(column: Column, row: int, entry: Any, names: dict[int, str], unit: str) -> str:
    if names:
        if entry not in names:
            known = sum(name != NO_TAG for name in names.values())
            others = f", or {NO_TAG}" if int(NO_TAG) in names else ""
            raise column.wrong(row, entry, f"each {unit} must be the number of one of {known} {unit}s{others}")
        return names[entry]
    if (name := plain(entry)) is None:
        raise column.wrong(row, entry, "each entry of a list must be a text or a number")
    if reason := broken(name):
        raise column.wrong(row, entry, reason)
    return name
