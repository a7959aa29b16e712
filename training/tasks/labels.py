"""Classes of a label column: their names, found by name in every split, and their numbers."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset

from training.data import Splits
from training.errors import UsageError
from training.reading.kinds import HIDDEN
from training.reading.names import find_names, number_names
from training.reading.numbers import NUMBER
from training.reading.tables import replace_column
from training.reading.visible import seen

_SHOWN = 10
_MANY = 10  # rows of a class that others are large beside


def names_of(split: Dataset, column: str) -> list[str]:
    """Return the name of the class in each row of a column of the kind `class_name`; -1 where it is hidden."""
    feature, held = split.features[column], split.with_format("arrow")[:].column(column).to_pylist()
    if not isinstance(feature, ClassLabel):
        return held
    names = dict(enumerate(feature.names)) | {HIDDEN: str(HIDDEN)}
    return [names[number] for number in held]


def row_classes(column: str) -> Callable[[Dataset], Sequence[Sequence[str]]]:
    """Return the function that `training.data.load_splits` takes for one class in each row."""
    return lambda split: [(name,) for name in names_of(split, column)]


def with_classes(splits: Splits, column: str) -> Splits:
    """Number the classes of every split as those of the training data, by name.

    Raises:
        UsageError: there is one class only, labels are hidden (-1), or another split has classes that training does not
            know.
    """
    feature, found = splits["train"].features[column], names_of(splits["train"], column)
    names = list(feature.names) if isinstance(feature, ClassLabel) else number_names(pd.Series(found))[1]
    if len(names) < 2:
        raise UsageError(f"column {column!r} holds {len(names)} class ({names}); at least 2 are needed")
    tell_of_alike(names, column)
    splits = _without_hidden(splits, column, names)
    numbered = {}
    for name, split in splits.items():
        held = names_of(split, column)
        numbers = find_names(names, pd.Series(held, dtype=object))
        if unknown := sorted({held[row] for row in np.flatnonzero(numbers < 0)}):
            raise UsageError(
                f"column {column!r} of the {name} data holds labels that the training data do not have: "
                f"{unknown[:_SHOWN]}; known are {names[:_SHOWN]}"
            )
        if split.features[column] != ClassLabel(names=names):
            split = replace_column(split, column, numbers.astype(np.int64), ClassLabel(names=names))
        numbered[name] = split
    return numbered


def tell_of_alike(names: Sequence[str], column: str, what: str = "class") -> None:
    """Warn of names that differ only in capitals, spaces and invisible marks, or in how a number is written: 007, true.

    Args:
        names: all that are in the column.
        column: its name.
        what: is named: a class, a row, ...
    """
    held = defaultdict(list)
    for name in names:
        look = seen(name)
        look = {"true": "1", "false": "0"}.get(look, look)
        held[Decimal(look) if NUMBER.fullmatch(look) else look].append(name)
    if alike := [found for found in held.values() if len(found) > 1]:
        warnings.warn(
            f"column {column!r} holds {' and '.join(map(repr, alike[0]))} as different names; if they are the same "
            f"{what}, write them alike ({len(alike)} such names)",
            stacklevel=3,
        )


def class_counts(splits: Splits, column: str) -> dict[str, dict[str, int]]:
    """Count the rows of each class, for each split of `with_classes`.

    Raises:
        UsageError: the training rows are all of one class.
    """
    counted = {}
    for name, split in splits.items():
        classes = split.features[column].names
        held = np.asarray(split.with_format("arrow")[:].column(column).to_numpy())
        counted[name] = dict(zip(classes, np.bincount(held, minlength=len(classes)).tolist(), strict=True))
    if len(found := [name for name, number in counted["train"].items() if number]) < 2:
        raise UsageError(
            f"all training rows are of one class in the column {column!r} ({', '.join(map(repr, found))}), so there is "
            "nothing to tell apart; pass rows of others"
        )
    _tell_of_single_rows(counted["train"], column)
    return counted


def _tell_of_single_rows(counts: dict[str, int], column: str) -> None:
    """Warn of classes of one row among large ones, which mostly are a second header, a total or a typing error."""
    single = [name for name, number in counts.items() if number == 1]
    if single and np.median(list(counts.values())) >= _MANY:
        warnings.warn(
            f"only one row of the train data has {single[0]!r} in the column {column!r} ({len(single)} such classes); "
            "if it is a second header, a total or a typing error, drop or correct it",
            stacklevel=4,
        )


def label_settings(names: list[str]) -> dict[str, Any]:
    """Return the settings of a classifier's configuration."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _without_hidden(splits: Splits, column: str, names: list[str]) -> Splits:
    """Drop a test split whose labels are all -1, as those of public benchmarks are.

    Raises:
        UsageError: those of another split are.
    """
    if str(HIDDEN) in names:
        return splits
    hidden = [name for name, split in splits.items() if set(names_of(split, column)) == {str(HIDDEN)}]
    if others := [name for name in hidden if name != "test"]:
        raise UsageError(f"the labels of the {others[0]} data are hidden (-1); pass data with labels")
    return without_test(splits) if hidden else splits


def without_test(splits: Splits) -> Splits:
    """Return the splits without test data whose labels are hidden, and say so."""
    warnings.warn("the labels of the test split are hidden (-1); it is left out", stacklevel=4)
    return {name: split for name, split in splits.items() if name != "test"}
