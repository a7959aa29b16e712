"""Loads, checks, splits and subsamples data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset

from training.errors import UsageError, redacted
from training.settings import DataArguments

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
VALIDATION_NAMES = ("validation", "dev", "valid", "val")
Splits = dict[str, Dataset]


def load_splits(data: DataArguments, *, images: bool = False) -> Splits:
    """Training and validation data, and test data where there are some; each a `Dataset` with at least one row.

    Args:
        data: where they come from; see its help.
        images: a folder holds images in a folder for each class.

    Raises:
        UsageError: nothing was passed, it cannot be read, a split is missing, or one is empty.
    """
    if data.dataset is None:
        raise UsageError("there is nothing to train on; pass --dataset with a file, a folder or a name on the Hub")
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
    """All splits of a file, a folder or a data set on the Hub.

    Raises:
        UsageError: there is no such file, or the libraries below cannot read it.
    """
    path = Path(source)
    if path.suffix in FORMATS and not path.is_file():
        raise UsageError(f"there is no file {source}")
    try:
        if path.is_file():
            return _read_file(path)
        if path.is_dir() and images:
            return load_dataset("imagefolder", data_dir=str(path))
        return load_dataset(source, config)
    except UsageError:
        raise
    except Exception as error:  # the libraries raise many kinds; all mean that the source cannot be read
        if "corresponds to no data" in str(error):
            raise UsageError(f"the data set {source} has no rows; at least one is needed") from error
        reason = redacted(str(error) or type(error).__name__)
        raise UsageError(f"the data set {source} cannot be loaded: {reason}") from error


def _read_file(path: Path) -> DatasetDict:
    if path.suffix not in FORMATS:
        raise UsageError(f"{path} ends in {path.suffix!r}; readable are {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty; it needs a header and at least one row")
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    return load_dataset(FORMATS[path.suffix], data_files={"train": str(path)}, **options)


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
        raise UsageError(f"there is no split {name!r}; there are {list(loaded)}: choose with {option}")
    return loaded[name]


def _other_split(
    loaded: DatasetDict, name: str, given: str | None, wanted: str | None, images: bool, train: str
) -> Dataset | None:
    """Validation or test data: from a file of their own, the split that was asked for, or the usual split."""
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
