"""What tasks share: the usual model and Trainer, logits, encoded columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from transformers import EvalPrediction

from training.data import Splits
from training.job import Task
from training.models.building import build_adapted
from training.trainer.trainer import AdapterTrainer

# A `Task` of one pretrained model with an adapter.
adapter_task = partial(Task, build_model=build_adapted, trainer_class=AdapterTrainer)


def logits_of(prediction: EvalPrediction) -> np.ndarray:
    """Return the logits; some models return more beside them."""
    predictions = prediction.predictions
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


def replace_columns(splits: Splits, function: Callable[[dict[str, list]], dict[str, list]]) -> Splits:
    """Return each split with all its columns replaced by what `function` makes of a batch of rows."""
    return {
        name: split.map(function, batched=True, remove_columns=split.column_names, desc=f"encoding {name}")
        for name, split in splits.items()
    }
