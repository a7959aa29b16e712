"""Load, check, split and subsample data sets, and number the names in a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.csv.csv import CsvConfig

from training.errors import UsageError, redacted
from training.settings.data import DataArguments

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
# Words that pandas takes for a missing value in a csv file; a class or a text may be called so.
MISSING_WORDS = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
_PART = 10_000  # rows of a csv file that are read at a time
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"  # as one writes it without need: 7, -7, 7.50, not 007
VALIDATION_NAMES = ("validation", "dev", "valid", "val")
Splits = dict[str, Dataset]


def load_splits(data: DataArguments, *, images: bool = False) -> Splits:
    """Load training and validation data, and test data where there are some; each a `Dataset` with at least one row.

    Args:
        data: where they come from; see its help.
        images: a folder holds images in a folder for each class.

    Raises:
        UsageError: nothing was passed, it cannot be read, a split is missing, or one is empty.
    """
    if data.dataset is None:
        raise UsageError("no training data were named; pass --dataset with a file, a folder or a name on the Hub")
    loaded = read_source(data.dataset, data.dataset_config, images)
    splits = {"train": _pick(loaded, data.train_split, "--train_split")}
    for name, given, option in (
        ("validation", data.validation_data, data.validation_split),
        ("test", data.test_data, data.test_split),
    ):
        found = _other_split(loaded, name, given, option, images, data.train_split)
        if found is not None:
            splits[name] = found
    _refuse_empty(splits)
    if "validation" not in splits:
        splits["train"], splits["validation"] = _hold_out(splits["train"], data)
    return {name: _subsample(split, getattr(data, f"num_{name}_samples"), data) for name, split in splits.items()}


def read_source(source: str, config: str | None = None, images: bool = False) -> DatasetDict:
    """Read all splits of a file, a folder or a data set on the Hub.

    Raises:
        UsageError: there is no such file, or the libraries below cannot read it.
    """
    path = Path(source)
    with _loading(source):
        if path.is_file():
            return _read_file(path)
        if path.is_dir() and images:
            return load_dataset("imagefolder", data_dir=str(path))
        return load_dataset(source, config, **(_words_in_folder(source, config) if path.is_dir() else {}))


def read_table(source: str, texts: Sequence[str]) -> pd.DataFrame:
    """Read the first split of a source as a table.

    Args:
        source: as for `read_source`.
        texts: columns that are texts as they are written, such as 001, where the source is a csv or tsv file, which
            does not say; other files have types.

    Raises:
        UsageError: as `read_source`.
    """
    path = Path(source)
    with _loading(source):
        if not path.is_file() or FORMATS.get(path.suffix) != "csv":
            return next(iter(read_source(source).values())).to_pandas()
        _refuse_empty_file(path)
        kinds = dict.fromkeys(texts, str)
        table = pd.read_csv(
            path, sep=_separator(path), dtype=kinds, keep_default_na=False, na_values=[""], low_memory=False
        )
        if table.empty:
            raise UsageError(f"the data set {source} has no rows; at least one is needed")
        return table


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Turn whatever the libraries raise into a sentence."""
    path = Path(source)
    if path.suffix in FORMATS and not path.is_file():
        raise UsageError(f"file not found: {source}")
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # the libraries raise many kinds; all mean that the source cannot be read
        if "corresponds to no data" in str(error):
            raise UsageError(f"the data set {source} has no rows; at least one is needed") from error
        reason = str(error) or type(error).__name__
        if isinstance(error, DatasetGenerationError) and error.__cause__:  # which says no more than that there was one
            reason = f"{reason}: {error.__cause__}"
        raise UsageError(f"the data set {source} cannot be loaded: {redacted(reason)}") from error


def _read_file(path: Path) -> DatasetDict:
    if path.suffix not in FORMATS:
        raise UsageError(f"{path} ends in {path.suffix!r}; readable are {', '.join(FORMATS)}")
    _refuse_empty_file(path)
    kind, separator = FORMATS[path.suffix], {"sep": _separator(path)}
    words = separator | _words([path], separator) if kind == "csv" else {}
    return load_dataset(kind, data_files={"train": str(path)}, **words)


def _refuse_empty_file(path: Path) -> None:
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty; it needs a header and at least one row")


def _separator(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _words_in_folder(source: str, config: str | None) -> dict[str, Any]:
    """Return `_words` for a folder of csv files, unless it says which words are missing values, or they are packed."""
    if not any(Path(source).rglob("*.[ct]sv")):
        return {}
    found = load_dataset_builder(source, config).config
    files = [Path(file) for files in (found.data_files or {}).values() for file in files]
    if not isinstance(found, CsvConfig) or {FORMATS.get(file.suffix) for file in files} != {"csv"}:
        return {}
    return _words(files, found.pd_read_csv_kwargs) if found.keep_default_na and found.na_values is None else {}


def _words(files: Sequence[Path], options: dict[str, Any]) -> dict[str, Any]:
    """Say how csv files are read: words such as NA are missing values in a column of numbers, and texts elsewhere."""
    texts, numbers, columns = set(), set(), set()
    for file in files:
        with pd.read_csv(file, **options | {"chunksize": _PART}) as parts:
            for part in parts:
                known, plain = set(part.columns[part.notna().any()]), set(part.select_dtypes("number").columns)
                numbers |= known & plain
                texts |= known - plain
                columns |= set(part.columns)
    empty = {name: ["", *MISSING_WORDS] if name in numbers - texts else [""] for name in sorted(columns)}
    return {"keep_default_na": False, "na_values": empty}


def number_names(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the number of the name in each row, and the names in the order of their numbers.

    Where all names are plain numbers, 1.0 is 1. With one like 007 they are codes, each another as it is written.

    >>> number_names(pd.Series(["10", "9", "9.0"])), number_names(pd.Series(["9", "009", "b"]))
    ((array([1, 0, 0]), ['9', '10']), (array([1, 0, 2]), ['009', '9', 'b']))
    """
    codes, found = pd.factorize(column)
    written = pd.Series(found).astype(str)
    numbers = _are_numbers(written)
    names = _by_value(written) if numbers else written
    ordered = sorted(set(names), key=Decimal if numbers else None)
    return pd.Index(ordered).get_indexer(names)[codes], ordered


def find_names(names: Sequence[str], column: pd.Series) -> np.ndarray:
    """Return the numbers that `number_names` gave to names, for another column; -1 for those that are new."""
    written = column.astype(str)
    return pd.Index(names).get_indexer(_by_value(written) if _are_numbers(pd.Series(names)) else written)


def _are_numbers(names: pd.Series) -> bool:
    return bool(names.str.strip().str.fullmatch(_NUMBER).all())


def _by_value(names: pd.Series) -> pd.Series:
    """Write 1 for 1.0 and 1.5 for 1.50; 007 stays."""
    return names.str.strip().str.replace(r"(\.[0-9]*?)0+$", r"\1", regex=True).str.replace(r"\.$", "", regex=True)


def require_columns(splits: Splits, columns: Sequence[str], hint: str) -> None:
    """Raise if a split lacks a column, or has empty entries in it.

    Raises:
        UsageError: the text lists the columns there are.
    """
    for name, split in splits.items():
        missing = [column for column in columns if column not in split.column_names]
        if missing:
            raise UsageError(f"the {name} data have no column {missing}; they have {split.column_names}: {hint}")
        for column in columns:
            empty = split.select_columns([column]).with_format("arrow")[:].column(column).null_count
            if empty:
                raise UsageError(
                    f"column {column!r} of the {name} data is empty in {empty} of {len(split)} rows; fill or drop them"
                )


def _pick(loaded: DatasetDict, name: str, option: str) -> Dataset:
    if name not in loaded:
        raise UsageError(f"unknown split {name!r}; the data have {list(loaded)}: choose with {option}")
    return loaded[name]


def _other_split(
    loaded: DatasetDict, name: str, given: str | None, wanted: str | None, images: bool, train: str
) -> Dataset | None:
    """Find validation or test data: from a file of their own, the split that was asked for, or the usual split."""
    if given is not None:
        parts = read_source(given, None, images)
        return _pick(parts, wanted, f"--{name}_split") if wanted else next(iter(parts.values()))
    if wanted is not None:
        return _pick(loaded, wanted, f"--{name}_split")
    usual = VALIDATION_NAMES if name == "validation" else ("test",)
    return next((loaded[candidate] for candidate in usual if candidate in loaded and candidate != train), None)


def _refuse_empty(splits: Splits) -> None:
    for name, split in splits.items():
        if len(split) == 0:
            raise UsageError(f"the {name} data have no rows; at least one is needed")


def _hold_out(train: Dataset, data: DataArguments) -> tuple[Dataset, Dataset]:
    if len(train) < 2:
        raise UsageError(
            f"{len(train)} sample cannot be split into training and validation; pass more, or --validation_data"
        )
    count = min(max(1, round(data.validation_fraction * len(train))), len(train) - 1)
    parts = train.train_test_split(test_size=count, seed=data.sample_seed)
    return parts["train"], parts["test"]


def _subsample(split: Dataset, count: int | None, data: DataArguments) -> Dataset:
    if count is None or count >= len(split):
        return split
    return split.shuffle(seed=data.sample_seed).select(range(count))
