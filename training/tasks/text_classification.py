"""Classes or numbers for texts, or for pairs of texts."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from transformers import DataCollatorWithPadding, EvalPrediction

from training.data import Splits, require_columns
from training.errors import UsageError
from training.job import Task
from training.settings.data import TextDataArguments
from training.tasks import glue
from training.tasks.base import adapter_task, logits_of, replace_columns
from training.tasks.labels import class_names, display_names, label_settings, without_hidden_test
from training.tasks.metrics import scorer
from training.tasks.text import require_text, text_columns


def classification(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of one of several classes for each text.

    Raises:
        UsageError: a column is missing or does not hold text, or the labels are not classes.
    """
    column = data.label_column or "label"
    _check(splits, data, column)
    splits = without_hidden_test(splits, column)
    classes = class_names(splits, column)
    metrics = data.metrics or (list(glue.find(data.glue).metrics) if data.glue else ["accuracy", "f1_macro"])
    score = scorer(metrics, metric_source, classes=len(classes))
    numbers = {value: number for number, value in enumerate(classes)}

    def score_classes(prediction: EvalPrediction) -> dict[str, float]:
        return score(logits_of(prediction).argmax(-1), prediction.label_ids)

    return adapter_task(
        name="classification",
        auto_class="AutoModelForSequenceClassification",
        pipeline="text-classification",
        peft_task="SEQ_CLS",
        splits=splits,
        model_settings=label_settings(display_names(splits["train"], column, classes))
        | {"problem_type": "single_label_classification"},
        encode=partial(_encode, data=data, label=lambda rows: [numbers[value] for value in rows[column]]),
        collate=lambda tokenizer, model: DataCollatorWithPadding(tokenizer),
        score=score_classes,
        main_metric=metrics[0],
    )


def regression(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of one number for each text.

    Raises:
        UsageError: a column is missing or does not hold text, or the labels are not finite numbers.
    """
    column = data.label_column or "label"
    _check(splits, data, column)
    splits = without_hidden_test(splits, column)
    for name, split in splits.items():
        _require_numbers(name, column, split[column])
    metrics = data.metrics or (list(glue.find(data.glue).metrics) if data.glue else ["pearsonr", "spearmanr", "mse"])
    score = scorer(metrics, metric_source, classes=None)

    def score_numbers(prediction: EvalPrediction) -> dict[str, float]:
        return score(logits_of(prediction).reshape(-1), np.asarray(prediction.label_ids).reshape(-1))

    return adapter_task(
        name="regression",
        auto_class="AutoModelForSequenceClassification",
        pipeline="text-classification",
        peft_task="SEQ_CLS",
        splits=splits,
        model_settings={"num_labels": 1, "problem_type": "regression"},
        encode=partial(_encode, data=data, label=lambda rows: [float(value) for value in rows[column]]),
        collate=lambda tokenizer, model: DataCollatorWithPadding(tokenizer),
        score=score_numbers,
        main_metric=metrics[0],
    )


def _check(splits: Splits, data: TextDataArguments, column: str) -> None:
    columns = text_columns(data)
    require_columns(splits, [*columns, column], "choose with --text_column, --text_pair_column and --label_column")
    require_text(splits, columns)


def _require_numbers(name: str, column: str, values: Any) -> None:
    try:
        finite = np.isfinite(np.asarray(list(values), dtype=float)).all()
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise UsageError(
            f"column {column!r} of the {name} data holds a value that is not a finite number; regression needs one in "
            "each row (pass --task classification for classes)"
        )


def _encode(splits: Splits, tokenizer: Any, *, data: TextDataArguments, label: Any) -> Splits:
    def encode(rows: dict[str, list]) -> dict[str, list]:
        texts = [rows[column] for column in text_columns(data)]
        return {**tokenizer(*texts, truncation=True, max_length=data.max_length), "labels": label(rows)}

    return replace_columns(splits, encode)
