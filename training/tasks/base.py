"""What tasks share: the usual model and Trainer, logits, columns of texts, encoded columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from transformers import DataCollatorWithPadding, EvalPrediction

from training.data import Splits
from training.job import IGNORED, Task
from training.models.building import build_adapted
from training.reading.kinds import text
from training.reading.tables import Wanted
from training.settings.data import TextDataArguments
from training.trainer.trainer import AdapterTrainer

CUT = "cut"  # a column of encoded data: how much of each row was left out
# A `Task` of one pretrained model with an adapter.
adapter_task = partial(Task, build_model=build_adapted, trainer_class=AdapterTrainer)
# One of a model with a head on the whole text: for classes, labels or numbers.
text_head_task = partial(
    adapter_task,
    auto_class="AutoModelForSequenceClassification",
    pipeline="text-classification",
    peft_task="SEQ_CLS",
    collate=lambda tokenizer, model: DataCollatorWithPadding(tokenizer),
)


def logits_of(prediction: EvalPrediction) -> np.ndarray:
    """Return the logits; some models return more beside them."""
    predictions = prediction.predictions
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


def classes_of(prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the predicted and of the true classes, without places that have no label."""
    predictions, references = logits_of(prediction).argmax(-1), np.asarray(prediction.label_ids)
    kept = references != IGNORED
    return predictions[kept], references[kept]


def replace_columns(
    splits: Splits, function: Callable[[dict[str, list]], dict[str, list]], unit: str | None = None
) -> Splits:
    """Return each split with all its columns replaced by what `function` makes of a batch of rows.

    Args:
        splits: the data.
        function: with a `unit`, gives a column `CUT`, too: how much of a row --max_length leaves out, for a warning.
        unit: of what is left out, for that warning.
    """
    encoded = {}
    for name, split in splits.items():
        mapped = split.map(function, batched=True, remove_columns=split.column_names, desc=f"encoding {name}")
        if unit is None or not len(mapped):
            encoded[name] = mapped
            continue
        lost = np.asarray(mapped[CUT][:])
        if lost.any():
            warnings.warn(
                f"{np.count_nonzero(lost):,} of {len(lost):,} {name} texts are longer than --max_length; "
                f"{lost.sum():,} {unit} are cut off, at most {lost.max():,} of a text",
                stacklevel=2,
            )
        encoded[name] = mapped.remove_columns(CUT)
    return encoded


def text_columns(data: TextDataArguments) -> list[str]:
    """Return the columns that make up the input."""
    return [data.text_column] + ([data.text_pair_column] if data.text_pair_column else [])


def wanted_texts(data: TextDataArguments) -> list[Wanted]:
    """Return the columns that make up the input, with what they must hold."""
    return [
        Wanted(name, text, option)
        for name, option in zip(text_columns(data), ("--text_column", "--text_pair_column"), strict=False)
    ]


def generation_columns(data: TextDataArguments) -> list[Wanted]:
    """Return the columns of the tasks that write texts."""
    target = [Wanted(data.target_column, text, "--target_column")] if data.target_column else []
    return [Wanted(data.text_column, text, "--text_column"), *target]


def encode_texts(
    tokenizer: Any, *texts: list[str], max_length: int, **settings: Any
) -> tuple[dict[str, Any], list[int]]:
    """Encode texts, or pairs of texts; and how many tokens of each are cut off.

    Args:
        tokenizer: of the model.
        *texts: one list, or two of the same length.
        max_length: tokens after which a text is cut off.
        **settings: of the tokenizer.
    """
    encoded = dict(tokenizer(*texts, truncation=True, max_length=max_length, **settings))
    ids = encoded["input_ids"]
    full = [row for row, own in enumerate(ids) if len(own) >= max_length]
    lost = [0] * len(ids)
    if full:
        whole = tokenizer(*([held[row] for row in full] for held in texts), verbose=False, **settings)["input_ids"]
        for row, own in zip(full, whole, strict=True):
            lost[row] = len(own) - len(ids[row])
    return encoded, lost
