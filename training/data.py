"""Load, check, split and subsample the data of a task."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, Image, Value
from jaxtyping import UInt64

from training.errors import UsageError
from training.reading.folders import VALIDATION_NAMES
from training.reading.pictures import shared_pictures
from training.reading.sources import Reader, column_names, read_source, refuse_unused
from training.reading.tables import Wanted
from training.samples import drawn_rows, held_out_groups, held_out_rows, rows_per_class
from training.settings.data import DataArguments

Splits = dict[str, Dataset]
Classes = Callable[[Dataset], Sequence[Sequence[str]]]  # the names of the classes of each row
Groups = Callable[[Dataset], Sequence[Hashable]]  # of each row
Check = Callable[[Dataset], None]
_PART = 10_000  # rows that are looked at together
_FEW = 20  # up to so many classes may have one row each


def load_splits(
    data: DataArguments,
    wanted: Sequence[Wanted],
    *,
    classes: Classes | None = None,
    groups: Groups | None = None,
    check: Check | None = None,
    images: bool = False,
) -> Splits:
    """Load training and validation data, and test data if there are any; each a `Dataset` with at least one row.

    Args:
        data: where they come from; see its help.
        wanted: the columns that are read.
        classes: of each row; what is held out has a share of each, and of each something stays to train on.
        groups: of rows that are held out together, since they show the same.
        check: of a split as it was read, before rows are held out or drawn.
        images: a folder holds images in a folder for each class.

    Raises:
        UsageError: nothing was passed, it cannot be read, a split is missing or empty, a column is missing, or holds
            what does not fit.
    """
    if data.dataset is None:
        raise UsageError("no training data were given; pass --dataset with a file, a folder or a name on the Hub")
    if len({one.name for one in wanted}) < len(wanted):
        options = ", ".join(dict.fromkeys(one.option for one in wanted))
        raise UsageError(f"the columns {[one.name for one in wanted]} must differ; choose with {options}")
    refuse_unused(data, [data.dataset, data.validation_data, data.test_data])
    loaded = read_source(data.dataset, data, config=data.dataset_config, images=images)
    splits = {}
    for name, reader in _readers(loaded, data, images).items():
        splits[name] = reader(wanted)
        if check is not None:
            check(splits[name])
    if "validation" not in splits:
        splits["train"], splits["validation"] = _hold_out(splits["train"], data, classes, groups)
    splits["train"] = _training_rows(splits["train"], data, classes)
    for name in splits.keys() - {"train"}:
        splits[name] = _subsample(splits[name], getattr(data, f"num_{name}_samples"), data)
    _warn_of_shared_rows(splits)
    return splits


def training_columns(data: DataArguments) -> list[str]:
    """Return the names of the columns of the training data, of which nothing else is read.

    Raises:
        UsageError: as `load_splits`.
    """
    if data.dataset is None:
        raise UsageError("no training data were given; pass --dataset with a file, a folder or a name on the Hub")
    loaded = read_source(data.dataset, data, config=data.dataset_config)
    return column_names(_pick(loaded, data.train_split, "--train_split"))


def _readers(loaded: dict[str, Reader], data: DataArguments, images: bool) -> dict[str, Reader]:
    """Find the readers of training data, and of validation and test data where there are some."""
    others = {name: _other_split(loaded, name, data, images) for name in ("validation", "test")}
    found = {name: reader for name, reader in others.items() if reader is not None}
    return {"train": _pick(loaded, data.train_split, "--train_split")} | found


def _pick(loaded: dict[str, Reader], name: str, option: str) -> Reader:
    if name not in loaded:
        raise UsageError(f"unknown split {name!r}; the data have {list(loaded)}: choose with {option}")
    return loaded[name]


def _other_split(loaded: dict[str, Reader], name: str, data: DataArguments, images: bool) -> Reader | None:
    """Find validation or test data: from a file of their own, the split that was asked for, or the usual split."""
    given, wanted = getattr(data, f"{name}_data"), getattr(data, f"{name}_split")
    usual = VALIDATION_NAMES if name == "validation" else ("test",)
    if given is None:
        if wanted is not None:
            return _pick(loaded, wanted, f"--{name}_split")
        return next((loaded[one] for one in usual if one in loaded and one != data.train_split), None)
    parts = read_source(given, data, images=images)
    if wanted is None and len(parts) > 1:
        wanted = next((one for one in usual if one in parts), None)
        if wanted is None:
            raise UsageError(f"--{name}_data {given} has the splits {list(parts)}; choose with --{name}_split")
    return _pick(parts, wanted, f"--{name}_split") if wanted else next(iter(parts.values()))


def _hold_out(
    train: Dataset, data: DataArguments, classes: Classes | None, groups: Groups | None
) -> tuple[Dataset, Dataset]:
    if len(train) < 2:
        raise UsageError(
            f"{len(train)} sample cannot be split into training and validation; pass more, or --validation_data"
        )
    names = [()] * len(train) if classes is None else classes(train)
    _refuse_single_classes(names)
    count = min(max(1, round(data.validation_fraction * len(train))), len(train) - 1)
    if groups is None:
        chosen = held_out_rows(names, count, data.sample_seed)
    else:
        chosen = held_out_groups(groups(train), count, data.sample_seed)
    if not len(chosen):
        what = "each class has one row" if groups is None else "all rows show the same"
        raise UsageError(f"{what}, so none can be held out; pass more, or --validation_data")
    others = np.setdiff1d(np.arange(len(train)), chosen)
    order = np.random.default_rng([data.sample_seed, 1]).permutation(len(others))
    return train.select(others[order]), train.select(chosen)


def _refuse_single_classes(names: Sequence[Sequence[str]]) -> None:
    """Raise if most classes have one row only: then the column names something else, such as the texts."""
    counts = Counter(name for row in names for name in row)
    single = sum(number == 1 for number in counts.values())
    if counts and all(len(row) == 1 for row in names) and len(counts) > _FEW and 2 * single > len(counts):
        raise UsageError(
            f"{len(counts)} different labels in {len(names)} rows, {single} of which occur only once, are "
            "hardly classes; pass --task regression for numbers, choose the right column with --label_column, or pass "
            "--validation_data, if they are classes"
        )


def _training_rows(train: Dataset, data: DataArguments, classes: Classes | None) -> Dataset:
    if data.num_train_samples_per_class is not None:
        of_rows = [] if classes is None else classes(train)
        if data.num_train_samples is not None or not of_rows or any(len(row) != 1 for row in of_rows):
            raise UsageError(
                "--num_train_samples_per_class is for one class in each row, and replaces --num_train_samples; leave "
                "one of them out"
            )
        return train.select(rows_per_class(of_rows, data.num_train_samples_per_class, data.sample_seed))
    if data.num_train_samples is None or data.num_train_samples >= len(train):
        return train
    names = [()] * len(train) if classes is None else classes(train)
    return train.select(drawn_rows(names, data.num_train_samples, data.sample_seed))


def _subsample(split: Dataset, count: int | None, data: DataArguments) -> Dataset:
    if count is None or count >= len(split):
        return split
    return split.shuffle(seed=data.sample_seed).select(range(count))


def _warn_of_shared_rows(splits: Splits) -> None:
    """Warn if rows that are evaluated on are trained on too, or their pictures."""
    features = splits["train"].features
    for column in (name for name, feature in features.items() if isinstance(feature, Image)):
        for name in splits.keys() - {"train"}:
            if count := shared_pictures(splits["train"], splits[name], column):
                warnings.warn(
                    f"{count:,} of {len(splits[name]):,} {name} rows have pictures that are in the training data too, "
                    "byte for byte, so their scores say little about new data; drop repeated pictures before splitting",
                    stacklevel=3,
                )
    if any(isinstance(feature, Image) for feature in features.values()):
        return
    compared = [name for name in features if not isinstance(features[name], ClassLabel)]  # numbered in each split
    trained = _digests(splits["train"], compared)
    for name, split in splits.items():
        count = 0 if name == "train" else int(np.isin(_digests(split, compared), trained).sum())
        if count:
            warnings.warn(
                f"{count:,} of {len(split):,} {name} rows are in the training data too, word for word, so their scores "
                "say little about new data; drop repeated rows before splitting",
                stacklevel=3,
            )


def _digests(split: Dataset, columns: list[str]) -> UInt64[np.ndarray, " rows"]:
    lists = [name for name in columns if not isinstance(split.features[name], Value)]
    found = []
    for part in split.select_columns(columns).with_format("pandas").iter(batch_size=_PART) if columns else ():
        texts = part.assign(**{name: [repr(list(held)) for held in part[name]] for name in lists})
        found.append(pd.util.hash_pandas_object(texts, index=False).to_numpy())
    return np.concatenate([np.zeros(0, np.uint64), *found])
