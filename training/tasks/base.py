"""`Task`: everything about a job that depends on what is predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers import EvalPrediction

from training.data import Splits
from training.tasks.generation import Generation

Encode = Callable[[Splits, Any], Splits]


@dataclass(frozen=True)
class Task:
    """One kind of job on checked data.

    Attributes:
        name: as on the command line.
        auto_class: the class of transformers that loads the model.
        peft_task: PEFT's task type, by which it knows the new head; None where it has none.
        splits: the checked data, not encoded.
        model_settings: what the model's configuration is given: number and names of the labels.
        encode: data and tokenizer or image processor -> what the model takes, with `labels`.
        collate: tokenizer or image processor, model -> collator of the batches.
        score: predictions -> metrics.
        reduce_logits: logits, labels -> what is kept of them for `score`; None keeps the logits.
        main_metric: the metric that says how good the model is.
        generation: the text to generate at evaluation; None for none.
        panels: metrics that are drawn, those of one panel together; the main metric alone if there are none.
    """

    name: str
    auto_class: str
    peft_task: str | None
    splits: Splits
    model_settings: dict[str, Any]
    encode: Encode
    collate: Callable[[Any, Any], Callable[..., Any]]
    score: Callable[[EvalPrediction], dict[str, float]]
    reduce_logits: Callable[[Any, Tensor], Tensor] | None = None
    main_metric: str = "loss"
    generation: Generation | None = None
    panels: tuple[tuple[str, ...], ...] = ()

    @property
    def label_names(self) -> list[str] | None:
        """Names of the classes, or None if there are none."""
        names = self.model_settings.get("id2label")
        return list(names.values()) if names else None


def logits_of(prediction: EvalPrediction) -> np.ndarray:
    """The logits; some models return more beside them."""
    predictions = prediction.predictions
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


def replace_columns(splits: Splits, function: Callable[[dict[str, list]], dict[str, list]]) -> Splits:
    """Each split with all its columns replaced by what `function` makes of a batch of rows."""
    return {
        name: split.map(function, batched=True, remove_columns=split.column_names, desc=f"encoding {name}")
        for name, split in splits.items()
    }
