"""Files by what their names end in, each as a `Table`."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.exceptions import DatasetGenerationError

from training.errors import UsageError, reason_of
from training.reading.lists import labels, tags, words
from training.reading.readers.conll import read_conll
from training.reading.readers.delimited import read_delimited
from training.reading.readers.json_rows import read_json
from training.reading.readers.sheets import read_sheet
from training.reading.tables import Table, Wanted, of_data_set
from training.reading.text_files import PACKED_SUFFIXES, lines_of, tell_of_utf8
from training.settings.data import FileArguments

_Lines = Callable[[], Iterator[str]]
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".zst")
_WORKBOOKS = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers")


def suffix_of(path: Path) -> str:
    """Return what the name ends in, in small letters and without the suffix of a packed file.

    >>> suffix_of(Path("my.data.CSV.gz"))
    '.csv'
    """
    name = path.name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return Path(name).suffix


def read_table(path: Path, wanted: Sequence[Wanted], options: FileArguments) -> Table:
    """Read the wanted columns of a file, as far as it has them.

    Raises:
        UsageError: it cannot be read; the text says why, and names the line if one is to blame.
    """
    reader = FORMATS.get(suffix_of(path))
    if reader is None:
        refuse_archive(path)
        if suffix_of(path) in _WORKBOOKS:
            raise UsageError(f"{path} is a workbook of another kind; save it as .xlsx, or as csv (UTF-8)")
        raise UsageError(
            f"{path} ends in {path.suffix!r}; the formats that can be read are {', '.join(FORMATS)}, also packed as .gz"
        )
    try:
        if path.stat().st_size == 0:
            raise UsageError(f"{path} is empty; it needs a header and at least one row")
        if reader not in (_sheet, _parquet):
            tell_of_utf8(path, options.encoding)
        table = reader(path, partial(lines_of, path, options.encoding), wanted, options)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    if not table.names or not table.rows:
        raise UsageError(f"the data set {path} has no rows; at least one is needed")
    return table


def refuse_archive(path: Path) -> None:
    """Raise if the name is that of an archive.

    Raises:
        UsageError: it is.
    """
    if suffix_of(path) in _ARCHIVES:
        raise UsageError(f"{path} is an archive; unpack it, and pass the file or the folder that was in it")


def _lines_as_places(path: Path, lines: Sequence[int], what: str = "line") -> dict[str, Any]:
    def place(row: int) -> str:
        return f"{what} {lines[row]} of {path}"

    return {"source": str(path), "place": place, "folder": str(path.resolve().parent), "rows": len(lines)}


def _delimited(path: Path, lines: _Lines, wanted: Sequence[Wanted], options: FileArguments) -> Table:
    rows = read_delimited(path, lines, options, [one.name for one in wanted])
    return Table(rows.header, rows.columns, **_lines_as_places(path, rows.lines))


def _json(path: Path, lines: _Lines, wanted: Sequence[Wanted], options: FileArguments) -> Table:
    lists = [one.name for one in wanted if one.kind in (words, tags, labels)]
    rows = read_json(path, lines, [one.name for one in wanted], lists)
    return Table(rows.names, rows.columns, **_lines_as_places(path, rows.places, rows.unit))


def _text(path: Path, lines: _Lines, wanted: Sequence[Wanted], options: FileArguments) -> Table:
    if any(one.kind is tags for one in wanted):
        return _conll(path, lines, wanted, options)
    if len(wanted) > 1:
        names = ", ".join(one.name for one in wanted)
        raise UsageError(
            f"{path} holds one text in each line and nothing else, but the columns {names} are needed; write a "
            "table, such as a csv, with a text and what belongs to it in each row"
        )
    texts = [line.rstrip("\r\n") for line in lines()]
    kept = [number for number, one in enumerate(texts, start=1) if one.strip()]
    return Table(["text"], {"text": [texts[number - 1] for number in kept]}, **_lines_as_places(path, kept))


def _conll(path: Path, lines: _Lines, wanted: Sequence[Wanted], options: FileArguments) -> Table:
    found = read_conll(path, lines())
    named = {words: "words", tags: "tags"} | {one.kind: one.name for one in wanted if one.kind in (words, tags)}
    columns = {named[words]: found.words, named[tags]: found.tags}
    return Table(list(columns), columns, **_lines_as_places(path, found.lines))


def _parquet(path: Path, lines: _Lines, wanted: Sequence[Wanted], options: FileArguments) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names, rows = pq.read_schema(path).names, pq.read_metadata(path).num_rows
        known = [one.name for one in wanted if one.name in names]
        if twice := [name for name in known if names.count(name) > 1]:
            raise UsageError(f"{path} has {names.count(twice[0])} columns {twice[0]!r}; rename all but one")
        if not known or not rows:
            return Table(names, {}, str(path), str, rows=rows)
        data = Dataset.from_parquet(glob.escape(str(path)), columns=known)  # which takes [ and * for patterns
    except (pa.ArrowInvalid, DatasetGenerationError) as error:
        raise UsageError(f"{path} cannot be read as parquet: {reason_of(error)}; make or copy it again") from error
    return replace(of_data_set(data, str(path)), names=names, folder=str(path.resolve().parent))


def _sheet(path: Path, lines: _Lines, wanted: Sequence[Wanted], options: FileArguments) -> Table:
    rows = read_sheet(path, options.column_names, [one.name for one in wanted])
    return Table(rows.header, rows.columns, **_lines_as_places(path, rows.lines, "row"))


_Reader = Callable[[Path, _Lines, Sequence[Wanted], FileArguments], Table]
FORMATS: dict[str, _Reader] = {
    ".csv": _delimited, ".tsv": _delimited, ".xlsx": _sheet, ".json": _json, ".jsonl": _json, ".ndjson": _json,
    ".parquet": _parquet, ".txt": _text, ".conll": _conll, ".iob": _conll, ".bio": _conll,
}  # fmt: skip
