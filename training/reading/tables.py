"""`Table`, what was read of a file or a data set, and the data set that a task gets of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    Dataset,
    Features,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from training.errors import UsageError
from training.reading.kinds import Column, Kind, empty_rows
from training.reading.lists import tags, words

_USUAL = (
    ("dpo", ("chosen", "rejected")),
    ("chat", ("messages",)),
    ("chat", ("conversations",)),
    ("chat", ("instruction", "output")),
    ("chat", ("prompt", "completion")),
)  # tasks, and the columns that data for them usually have


class Wanted(NamedTuple):
    """A column that a task needs.

    Attributes:
        name: of the column.
        kind: what it must hold; see `training.reading.kinds`.
        option: by which another column is chosen.
    """

    name: str
    kind: Kind
    option: str


@dataclass(frozen=True)
class Table:
    """Columns as they were read.

    Attributes:
        names: of all columns that there are.
        columns: those that were read.
        source: what was read, for errors.
        place: number of a row -> where it stands, such as "line 7 of data.csv".
        folder: where relative paths start.
        features: what `datasets` says of columns that are its own.
        rows: how many there are.
        data: the data set that this is a table of, which may lie on the disk.
    """

    names: Sequence[str]
    columns: Mapping[str, pa.ChunkedArray | list[Any]]
    source: str
    place: Callable[[int], str]
    folder: str = "."
    features: Mapping[str, Any] | None = None
    rows: int = 0
    data: Dataset | None = None

    def column(self, name: str) -> Column:
        """Return one column."""
        feature = (self.features or {}).get(name)
        return Column(name, self.columns[name], feature, self.source, self.place, self.folder)


def typed(table: Table, wanted: Sequence[Wanted]) -> Dataset:
    """Return the wanted columns as a data set, each as its kind has it.

    Raises:
        UsageError: as `typed_columns`.
    """
    arrays, features = typed_columns(table, wanted)
    if table.data is not None:
        return _replaced(table, arrays, features)
    return Dataset(pa.table(arrays).cast(Features(features).arrow_schema))


def typed_columns(table: Table, wanted: Sequence[Wanted]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the wanted columns, each as its kind has it, and their features.

    Raises:
        UsageError: a column is missing, has empty entries, or holds what does not fit; the text names column and line.
    """
    require_names(table, wanted)
    arrays: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for one in wanted:
        values, feature = one.kind(table.column(one.name))
        if empty := empty_rows(values):
            raise UsageError(
                f"column {one.name!r} of {table.source} is empty in {len(empty)} of {len(values)} rows, the first is "
                f"{table.place(empty[0])}; fill or drop them"
            )
        arrays[one.name] = values
        features[one.name] = feature or Features.from_arrow_schema(pa.schema([(one.name, values.type)]))[one.name]
    _require_equal_lengths(table, {one.name: arrays[one.name] for one in wanted if one.kind in (words, tags)})
    return arrays, features


def _require_equal_lengths(table: Table, arrays: Mapping[str, pa.ChunkedArray | pa.Array]) -> None:
    """Raise if words and tags are not as many in a row."""
    lengths = {name: pc.list_value_length(held) for name, held in arrays.items()}
    for row, numbers in enumerate(zip(*lengths.values(), strict=True) if len(lengths) > 1 else ()):
        if len(set(numbers)) > 1:
            held = " and ".join(f"{number} in {name!r}" for name, number in zip(lengths, numbers, strict=True))
            raise UsageError(
                f"{table.place(row)} has {held}; each word needs one tag (lists, or texts separated by spaces)"
            )


def _replaced(table: Table, arrays: dict[str, Any], features: dict[str, Any]) -> Dataset:
    """Return the data set with the columns that became others; what stays is not copied from the disk."""
    data: Any = table.data
    data = data.select_columns(list(arrays))
    for name, values in arrays.items():
        if values is not table.columns[name]:
            data = replace_column(data, name, values, features[name])
        elif features[name] != data.features[name]:
            data = data.cast_column(name, features[name])
    return data.select_columns(list(arrays))


def replace_column(data: Dataset, name: str, values: Any, feature: Any) -> Dataset:
    """Return the data set with other values in a column, at its place; the other columns are not copied."""
    order, other = data.column_names, f"{name} (new)"
    with without_bars():
        added = data.add_column(other, values, feature=feature).remove_columns(name).rename_column(other, name)
    return added.select_columns(order)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the library from drawing a progress bar for what takes no time."""
    hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            enable_progress_bars()


def require_names(table: Table, wanted: Sequence[Wanted]) -> None:
    """Raise if a column is missing.

    Raises:
        UsageError: the text lists those that there are, and the options that choose others.
    """
    missing = [one.name for one in wanted if one.name not in table.names]
    if missing:
        options = list(dict.fromkeys(one.option for one in wanted))
        choice = " and ".join([", ".join(options[:-1]), options[-1]] if len(options) > 1 else options)
        one_name = len(table.names) == 1 and not table.names[0].replace("_", "").isalnum()
        raise UsageError(
            f"there is no column {missing} in {table.source}, only {list(table.names)}: choose with {choice} (a file "
            f"without a header needs --column_names{', one with another separator --separator' if one_name else ''})"
            f"{_hint(table.names, options)}{_partitions(table.source, missing)}"
        )


def _hint(names: Sequence[str], options: Sequence[str]) -> str:
    """Name the task of texts that columns of these names are usually for.

    >>> _hint(["messages", "id"], ["--text_column"])
    "; columns such as 'messages' are for --task chat"
    """
    for task, known in _USUAL:
        if set(known) <= set(names) and "--text_column" in options:
            return f"; columns such as {' and '.join(map(repr, known))} are for --task {task}"
    return ""


def _partitions(source: str, missing: Sequence[str]) -> str:
    """Name a folder in the path of a file that says what a missing column would hold, as Spark and Hive write them.

    >>> _partitions("/data/kind=a/part-0.csv", ["label"])
    ''
    """
    for part in source.split("/")[:-1]:
        if part.partition("=")[0] in missing and "=" in part:
            return (
                f"; names of folders, such as {part}, are not read as columns: join the files with pandas or pyarrow, "
                "which do"
            )
    return ""


def of_data_set(data: Dataset, source: str) -> Table:
    """Return a data set of the library as a table, without reading it."""
    columns = _Columns(data)
    return Table(
        data.column_names, columns, source, lambda row: f"row {row} (from 0) of {source}", features=data.features,
        rows=len(data), data=data,
    )  # fmt: skip


class _Columns(dict):
    """Columns of a data set, each read when it is asked for."""

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        self._data = data

    def __missing__(self, name: str) -> pa.ChunkedArray:
        self[name] = self._data.select_columns([name]).with_format("arrow")[:].column(name)
        return self[name]
