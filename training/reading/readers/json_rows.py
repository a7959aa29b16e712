"""Rows of JSON files: an object in each line, a list of objects, or an object that holds the list or the columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.errors import UsageError

Located = Iterator[tuple[int, Any]]
_SHAPES = "needed is one object in each line, or one list of objects, such as pandas' to_json(orient='records') writes"


class JsonRows(NamedTuple):
    """Names of all columns, values of the wanted ones, and where each row stands: in which line, or as which row."""

    names: list[str]
    columns: dict[str, list[Any]]
    places: list[int]
    unit: str


def read_json(
    path: Path, lines: Callable[[], Iterator[str]], wanted: Sequence[str], lists: Sequence[str] = ()
) -> JsonRows:
    """Read the wanted columns, with None where a row has none.

    Args:
        path: for errors.
        lines: gives the lines of the file each time it is called.
        wanted: names of columns.
        lists: those of them of which each row holds a list.

    Raises:
        UsageError: it is not JSON, or not rows; the text names the line.
    """
    names: dict[str, None] = {}
    columns: dict[str, list] = {name: [] for name in wanted}
    places, rejected = [], []
    unit, rows = _rows(path, lines, wanted, lists)
    for line, row in rows:
        if not isinstance(row, dict):
            raise UsageError(f"{unit} {line} of {path} is {type(row).__name__}, not an object; {_SHAPES}")
        names.update(dict.fromkeys(row))
        places.append(line)
        for name, values in columns.items():
            values.append(row.get(name))
        if "_task_hash" in row and row.get("answer") not in (None, "accept"):
            rejected.append((line, row["answer"]))
    _refuse_rejected(path, unit, rejected, len(places))
    return JsonRows(list(names), columns, places, unit)


def _refuse_rejected(path: Path, unit: str, rejected: Sequence[tuple[int, Any]], count: int) -> None:
    """Raise if rows were not accepted in Prodigy, which saves them among the others."""
    if rejected:
        place, answer = rejected[0]
        raise UsageError(
            f"{len(rejected):,} of {count:,} rows of {path} were not accepted in Prodigy, the first is {unit} {place} "
            f"('answer' is {answer!r}); keep the others, as by jq -c 'select(.answer == \"accept\")' FILE"
        )


def _rows(
    path: Path, lines: Callable[[], Iterator[str]], wanted: Sequence[str], lists: Sequence[str]
) -> tuple[str, Located]:
    """Return what the numbers of rows count, and the rows with their numbers."""
    first = next((line for line in lines() if line.strip()), "")
    if first.lstrip()[:1] == "{" and _is_json(first):
        rest = (line for line in lines() if line.strip())
        next(rest, None)
        if next(rest, None) is not None or not _holds_rows(json.loads(first), wanted, lists):
            return "line", _of_lines(path, lines())
    return "row", enumerate(_of_whole(path, "".join(lines()), wanted), start=1)


def _of_lines(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parsed(path, line, number)


def _of_whole(path: Path, text: str, wanted: Sequence[str]) -> list[Any]:
    """Return the rows of a file that is one value."""
    found = _parsed(path, text, None)
    if isinstance(found, list):
        return found
    lists = [name for name, value in found.items() if _is_list_of_objects(value)] if isinstance(found, dict) else []
    if len(lists) == 1:
        return found[lists[0]]
    if lists:
        raise UsageError(f"{path} holds several lists of objects ({', '.join(lists)}); {_SHAPES}")
    if isinstance(found, dict) and wanted and all(isinstance(found.get(name), list) for name in wanted):
        if len({len(found[name]) for name in wanted}) == 1:
            return [
                dict(zip(wanted, values, strict=True)) for values in zip(*(found[one] for one in wanted), strict=True)
            ]
    if isinstance(found, dict) and not any(isinstance(value, (dict, list)) for value in found.values()):
        return [found]
    held = f"one object with {list(found)[:5]}" if isinstance(found, dict) else type(found).__name__
    raise UsageError(f"{path} holds {held}; {_SHAPES}")


def _holds_rows(found: Any, wanted: Sequence[str], lists: Sequence[str]) -> bool:
    """Tell whether the only object of a file holds the rows, or their columns, and is not the only row."""
    if any(_is_list_of_objects(value) for value in found.values()) and not set(wanted) <= set(found):
        return True
    held = [found.get(name) for name in wanted]
    nested = [isinstance(value, (list, dict)) for value in held]
    of_one_row = any(not _is_list_of_lists(found.get(name)) for name in lists)
    return bool(nested) and all(nested) and not of_one_row


def _is_list_of_lists(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, list) for one in value)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(path: Path, text: str, line: int | None) -> Any:
    """Parse JSON in which no name comes twice in an object; NaN, which others write for nothing, is None."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"an object names {twice!r} twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        reason, number = str(error), line
        if isinstance(error, json.JSONDecodeError):
            reason, number = f"{error.msg} at character {error.colno}", line or error.lineno
        where = f"line {number} of {path}" if number else str(path)
        raise UsageError(f"{where} is not JSON: {reason}; {_SHAPES}") from error


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)
