"""Classes or numbers for texts, or for pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from transformers import EvalPrediction

from training.data import Splits
from training.errors import UsageError
from training.job import Task
from training.reading.kinds import HIDDEN, class_name, number
from training.reading.tables import Wanted
from training.settings.data import TextDataArguments
from training.tasks import glue
from training.tasks.base import (
    CUT,
    classes_of,
    encode_texts,
    logits_of,
    replace_columns,
    text_columns,
    text_head_task,
    wanted_texts,
)
from training.tasks.labels import class_counts, label_settings, with_classes, without_test
from training.tasks.metrics import class_scorer, scorer


def class_columns(data: TextDataArguments) -> list[Wanted]:
    """Return the columns of `classification`."""
    return [*wanted_texts(data), Wanted(label_column(data), class_name, "--label_column")]


def number_columns(data: TextDataArguments) -> list[Wanted]:
    """Return the columns of `regression`."""
    return [*wanted_texts(data), Wanted(label_column(data), number, "--label_column")]


def label_column(data: TextDataArguments) -> str:
    """Return the column with the answers."""
    return data.label_column or "label"


def classification(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of one of several classes for each text.

    Raises:
        UsageError: there is one class only, or a split has classes that the training data do not have.
    """
    column = label_column(data)
    splits = with_classes(splits, column)
    names = splits["train"].features[column].names
    metrics = data.metrics or (list(glue.find(data.glue).metrics) if data.glue else ["accuracy", "f1_macro"])
    return text_head_task(
        name="classification",
        splits=splits,
        model_settings=label_settings(names) | {"problem_type": "single_label_classification"},
        encode=partial(_encode, data=data, column=column),
        score=class_scorer(metrics, metric_source, classes=len(names)),
        main_metric=metrics[0],
        scores=tuple(metrics),
        classes_of=classes_of,
        counts=class_counts(splits, column),
    )


def regression(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of one number for each text.

    Raises:
        UsageError: a metric does not work for numbers, or all training rows have the same number.
    """
    _refuse_constant(splits["train"][label_column(data)], label_column(data))
    if "test" in splits and set(splits["test"][label_column(data)]) == {HIDDEN}:
        splits = without_test(splits)
    metrics = data.metrics or (list(glue.find(data.glue).metrics) if data.glue else ["pearsonr", "spearmanr", "mse"])
    score = scorer(metrics, metric_source, classes=None)

    def score_numbers(prediction: EvalPrediction) -> dict[str, float]:
        return score(logits_of(prediction).reshape(-1), np.asarray(prediction.label_ids).reshape(-1))

    return text_head_task(
        name="regression",
        splits=splits,
        model_settings={"num_labels": 1, "problem_type": "regression"},
        encode=partial(_encode, data=data, column=label_column(data)),
        score=score_numbers,
        main_metric=metrics[0],
        scores=tuple(metrics),
        ranges={name: _range(split[label_column(data)]) for name, split in splits.items()},
    )


def _range(numbers: Sequence[float]) -> tuple[float, float]:
    return min(numbers), max(numbers)


def _refuse_constant(targets: Sequence[float], column: str) -> None:
    if len(targets) > 1 and len(found := set(targets)) == 1:
        raise UsageError(
            f"column {column!r} holds {found.pop():g} in all {len(targets):,} training rows, so there is nothing to "
            "predict; choose another one with --label_column"
        )


def _encode(splits: Splits, tokenizer: Any, *, data: TextDataArguments, column: str) -> Splits:
    def encode(rows: dict[str, list]) -> dict[str, list]:
        encoded, lost = encode_texts(tokenizer, *(rows[name] for name in text_columns(data)), max_length=data.length)
        return {**encoded, "labels": rows[column], CUT: lost}

    return replace_columns(splits, encode, "tokens")
