"""Columns that hold a list in each row: words, and a tag for each word."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from typing import Any

import pyarrow as pa
from datasets import ClassLabel

from training.reading.kinds import Column, Typed, plain

NO_TAG = "-100"  # of words that have none, as torch and transformers mark them
_LISTS = "write lists of texts, or texts separated by spaces"


def words(column: Column) -> Typed:
    """Return the words of each row: a list, a list that was written as text, or a text with spaces between words.

    Raises:
        UsageError: column and line of a value that is neither.
    """
    return pa.array(_entries(column, {}), pa.list_(pa.string())), None


def tags(column: Column) -> Typed:
    """Return the tags of each row, as `words` does; by name, where the data set numbers them; -100 is `NO_TAG`.

    Raises:
        UsageError: column and line of what is none.
    """
    inner = getattr(column.feature, "feature", None)
    names = dict(enumerate(inner.names)) | {int(NO_TAG): NO_TAG} if isinstance(inner, ClassLabel) else {}
    return pa.array(_entries(column, names), pa.list_(pa.string())), None


def _entries(column: Column, names: dict[int, str]) -> list[list[str] | None]:
    found = column.listed()
    texts = [value for value in found if isinstance(value, str)]
    bracketed = bool(texts) and all(value.strip()[:1] == "[" and value.strip()[-1:] == "]" for value in texts)
    rows: list[list[str] | None] = []
    for row, value in enumerate(found):
        entries = value
        if isinstance(value, str):
            entries = _of_text(column, row, value, bracketed)
        if entries is not None and not isinstance(entries, (list, tuple)):
            raise column.wrong(row, value, _LISTS)
        rows.append(None if entries is None else [_name(column, row, entry, names) for entry in entries])
    return rows


def _of_text(column: Column, row: int, value: str, bracketed: bool) -> list[Any] | None:
    listed = _list_of(value.strip()) if bracketed or value.strip()[:2] in ("['", '["') else None
    if listed is not None and bracketed:
        return listed
    if listed is not None or value.strip()[:2] in ("['", '["'):
        raise column.wrong(row, value, f"it looks like a list, but is not one, or others are not: {_LISTS}")
    return value.split() or None


def _list_of(value: str) -> list[Any] | None:
    """Return the list that a text holds as JSON or Python writes it, or None.

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
    return found if isinstance(found, list) and not glued else None


def _name(column: Column, row: int, entry: Any, names: dict[int, str]) -> str:
    if names:
        if entry not in names:
            raise column.wrong(row, entry, f"each tag must be the number of one of {len(names) - 1} tags, or {NO_TAG}")
        return names[entry]
    if (name := plain(entry)) is None:
        raise column.wrong(row, entry, "each entry of a list must be a text or a number")
    return name
