"""Classes of a label column: their names, and numbers for them."""

from __future__ import annotations

import warnings
from typing import Any

from datasets import ClassLabel, Dataset, Value

from training.data import Splits
from training.errors import UsageError


def class_names(splits: Splits, column: str) -> list[Any]:
    """Return the classes of the training data, as they stand in the column (0, 1, ... if the data set names them).

    Raises:
        UsageError: there is one class only, nearly every row has a class of its own, the labels are real numbers,
            they are hidden (-1), or another split has classes that training does not know.
    """
    feature = splits["train"].features[column]
    if isinstance(feature, ClassLabel):
        found: list[Any] = list(range(feature.num_classes))
    else:
        _refuse_real_numbers(feature, column)
        found = sorted(splits["train"].unique(column))
    if len(found) < 2:
        raise UsageError(f"column {column!r} holds {len(found)} class ({found}); at least 2 are needed")
    if len(found) > max(20, len(splits["train"]) // 2):
        raise UsageError(
            f"column {column!r} holds {len(found)} different values in {len(splits['train'])} rows, which are hardly "
            "classes; pass --task regression for numbers, or choose the right column with --label_column"
        )
    for name, split in splits.items():
        unknown = sorted(set(split.unique(column)) - set(found))
        if unknown:
            raise UsageError(
                f"column {column!r} of the {name} data holds labels that the training data do not have: {unknown[:5]}; "
                f"known are {found[:10]}"
            )
    return found


def display_names(split: Dataset, column: str, classes: list[Any]) -> list[str]:
    """Return the names of the classes: those that the data set declares, or the classes as they stand."""
    feature = split.features[column]
    return list(feature.names) if isinstance(feature, ClassLabel) else [str(one) for one in classes]


def without_hidden_test(splits: Splits, column: str) -> Splits:
    """Drop a test split whose labels are all -1, as those of public benchmarks are."""
    test = splits.get("test")
    if test is None or column not in test.column_names or set(test.unique(column)) != {-1}:
        return splits
    warnings.warn("the labels of the test split are hidden (-1); it is left out", stacklevel=2)
    return {name: split for name, split in splits.items() if name != "test"}


def label_settings(names: list[str]) -> dict[str, Any]:
    """Return the settings of a classifier's configuration."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _refuse_real_numbers(feature: Any, column: str) -> None:
    if not isinstance(feature, Value):
        raise UsageError(f"column {column!r} holds {feature}; classes must be integers or strings, one for each row")
    if feature.dtype.startswith(("float", "double")):
        raise UsageError(
            f"column {column!r} holds real numbers ({feature.dtype}); classes must be integers or strings: pass "
            "--task regression to predict numbers"
        )
