"""Any number of labels for each text: a list in each row, or a column of 0 and 1 for each label."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn import metrics
from transformers import EvalPrediction

from training.data import Splits
from training.errors import UsageError
from training.job import Task
from training.reading.lists import labels, truth
from training.reading.tables import Wanted
from training.settings.data import TextDataArguments
from training.tasks.base import (
    CUT,
    encode_texts,
    logits_of,
    replace_columns,
    text_columns,
    text_head_task,
    wanted_texts,
)
from training.tasks.labels import label_settings, tell_of_alike
from training.tasks.metrics import AUC, mean_auc


def _averaged(function: Callable[..., Any], average: str) -> Callable[..., float]:
    return lambda right, found: float(function(right, found, average=average, zero_division=0.0))


# Of what is true and what was found, (rows, labels); a label is found where its probability is above one half.
LABEL_METRICS: dict[str, Callable[..., float]] = {
    "f1_micro": _averaged(metrics.f1_score, "micro"),
    "f1_macro": _averaged(metrics.f1_score, "macro"),
    "precision_micro": _averaged(metrics.precision_score, "micro"),
    "precision_macro": _averaged(metrics.precision_score, "macro"),
    "recall_micro": _averaged(metrics.recall_score, "micro"),
    "recall_macro": _averaged(metrics.recall_score, "macro"),
    "accuracy": lambda right, found: float((right == found).all(1).mean()),  # all labels of a row
}


def multilabel_columns(data: TextDataArguments) -> list[Wanted]:
    """Return the columns of the task."""
    if data.label_columns:
        return [*wanted_texts(data), *(Wanted(name, truth, "--label_columns") for name in data.label_columns)]
    return [*wanted_texts(data), Wanted(data.label_column or "label", labels, "--label_column")]


def row_labels(data: TextDataArguments) -> Callable[[Dataset | dict[str, list]], Sequence[Sequence[str]]]:
    """Return the function that `training.data.load_splits` takes for several labels in each row."""

    def of_rows(split: Dataset | dict[str, list]) -> list[list[str]]:
        if not data.label_columns:
            return [sorted(set(row)) for row in split[data.label_column or "label"]]
        columns = (split[name] for name in data.label_columns)
        return [
            [name for name, holds in zip(data.label_columns, row, strict=True) if holds]
            for row in zip(*columns, strict=True)
        ]

    return of_rows


def multilabel(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of any number of labels for each text: each is present or not, whatever the others are.

    Raises:
        UsageError: there is one label only, a split has labels that the training data do not have, or a metric is
            unknown.
    """
    held = {name: row_labels(data)(split) for name, split in splits.items()}
    counts = {name: Counter(label for row in rows for label in row) for name, rows in held.items()}
    names = _names(counts, data)
    chosen = data.metrics or ["f1_micro", "f1_macro"]
    if metric_source != "local":
        raise UsageError("--metric_source evaluate has no metrics of several labels in a row; leave it out")
    if unknown := [name for name in chosen if name not in (*LABEL_METRICS, AUC)]:
        raise UsageError(
            f"unknown metric {unknown[0]!r} for several labels in a row; choose from {', '.join((*LABEL_METRICS, AUC))}"
        )

    def score(prediction: EvalPrediction) -> dict[str, float]:
        found, right = labels_of(prediction)
        return {
            name: mean_auc(right, logits_of(prediction)) if name == AUC else LABEL_METRICS[name](right, found)
            for name in chosen
        }

    return text_head_task(
        name="multilabel",
        splits=splits,
        model_settings=label_settings(names) | {"problem_type": "multi_label_classification"},
        encode=partial(_encode, data=data, names=names),
        score=score,
        main_metric=chosen[0],
        scores=tuple(chosen),
        labels_of=labels_of,
        counts={split: {name: found[name] for name in names} for split, found in counts.items()},
    )


def labels_of(prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each label was found, and whether it is true: (rows, labels)."""
    return logits_of(prediction) > 0, np.asarray(prediction.label_ids) > 0.5


def _names(counts: dict[str, Counter[str]], data: TextDataArguments) -> list[str]:
    column = data.label_column or "label"
    names = data.label_columns or sorted(counts["train"])
    if len(names) < 2:
        source = "--label_columns names" if data.label_columns else f"column {column!r} holds"
        raise UsageError(f"{source} {len(names)} label ({names}); at least 2 are needed")
    tell_of_alike(names, column)
    if never := [name for name in names if not counts["train"][name]]:
        warnings.warn(
            f"no row of the train data has the label {', '.join(map(repr, never[:5]))}, so it cannot be learned "
            f"({len(never)} such labels of {len(names)})",
            stacklevel=3,
        )
    for split, found in counts.items():
        if unknown := sorted(found.keys() - set(names)):
            raise UsageError(f"the {split} data hold labels that the training data do not have: {unknown[:5]}")
    return names


def _encode(splits: Splits, tokenizer: Any, *, data: TextDataArguments, names: list[str]) -> Splits:
    of_rows = row_labels(data)

    def encode(rows: dict[str, list]) -> dict[str, list]:
        encoded, lost = encode_texts(tokenizer, *(rows[name] for name in text_columns(data)), max_length=data.length)
        return {**encoded, "labels": [[float(name in own) for name in names] for own in of_rows(rows)], CUT: lost}

    return replace_columns(splits, encode, "tokens")
