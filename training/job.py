"""`Task`, what is learned and by which means, and `Job`, a task with all settings of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback

from training.data import Splits
from training.settings.adapter import AdapterArguments
from training.settings.common import HeadArguments, ModelArguments, RunArguments
from training.settings.data import DataArguments

IGNORED = -100  # the label of tokens that have no loss, in torch and transformers; Trainer pads labels with it


def no_watchers(trainer: Trainer, processor: Any) -> list[TrainerCallback]:
    """Return no callbacks: most tasks measure nothing beside the Trainer."""
    return []


def no_callbacks(job: Job, model: nn.Module) -> list[TrainerCallback]:
    """Return no callbacks: most tasks need none of their own."""
    return []


@dataclass(frozen=True)
class Task:
    """What is learned from checked data, and by which means.

    Attributes:
        name: as on the command line and in `results.json`.
        auto_class: the class of transformers that loads the model.
        pipeline: the task's tag on the Hub; None where the Hub has none.
        peft_task: PEFT's task type, by which it knows the new head; None where it has none.
        splits: the checked data, not encoded.
        model_settings: what the model's configuration is given: number and names of the labels.
        build_model: makes the model that is trained, with its adapters.
        trainer_class: makes the Trainer, with the arguments of `training.trainer.AdapterTrainer`.
        encode: data and tokenizer or image processor -> what the model takes, with `labels`.
        collate: tokenizer or image processor, model -> collator of the batches.
        score: predictions -> metrics; None where the Trainer has metrics of its own.
        callbacks: job, model -> callbacks that only this task has.
        watchers: Trainer, tokenizer -> callbacks that measure its model beside it.
        reduce_logits: logits, labels -> what is kept of them for `score`; None keeps the logits.
        main_metric: the metric that says how good the model is.
        scores: names of all metrics, besides the loss.
        classes_of: predictions -> numbers of the predicted and of the true classes; None for a task without classes.
        labels_of: predictions -> labels that are found and that are true, (rows, labels); for several labels in a row.
        panels: metrics that are drawn, those of one panel together; the main metric alone if there are none.
        counts: rows of each class by split, or words of each tag.
        ranges: the smallest and the largest number by split, where numbers are predicted.
        generates: whether the model writes texts at each evaluation.
        own_loss: whether the Trainer computes another loss than the model does.
        answers: Trainer, model, validation data -> texts that the trained model writes, for `results.json`.
    """

    name: str
    auto_class: str
    pipeline: str | None
    peft_task: str | None
    splits: Splits
    model_settings: dict[str, Any]
    build_model: Callable[[Job], nn.Module]
    trainer_class: Callable[..., Trainer]
    encode: Callable[[Splits, Any], Splits]
    collate: Callable[[Any, Any], Callable[..., Any]]
    score: Callable[[EvalPrediction], dict[str, float]] | None
    callbacks: Callable[[Job, nn.Module], list[TrainerCallback]] = no_callbacks
    watchers: Callable[[Trainer, Any], list[TrainerCallback]] = no_watchers
    reduce_logits: Callable[[Any, Tensor], Tensor] | None = None
    main_metric: str = "loss"
    scores: tuple[str, ...] = ()
    classes_of: Callable[[EvalPrediction], tuple[np.ndarray, np.ndarray]] | None = None
    labels_of: Callable[[EvalPrediction], tuple[np.ndarray, np.ndarray]] | None = None
    panels: tuple[tuple[str, ...], ...] = ()
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    generates: bool = False
    own_loss: bool = False
    answers: Callable[[Trainer, nn.Module, Any], list[dict[str, Any]]] | None = None

    @property
    def label_names(self) -> list[str] | None:
        """Return the names of the classes, or None if there are none."""
        names = self.model_settings.get("id2label")
        return list(names.values()) if names else None

    @property
    def num_labels(self) -> int | None:
        """Return the width of the head: the number of classes, 1 for a number, None for a model without a new head."""
        return self.model_settings.get("num_labels")


@dataclass(frozen=True)
class Job:
    """Everything that decides a run. `token` is kept apart from the arguments, which are written to files.

    `method` is one more dataclass of arguments, of a command that has such.
    """

    model: ModelArguments
    adapter: AdapterArguments
    data: DataArguments
    run: RunArguments
    task: Task
    processor: Any
    command: str
    head: HeadArguments = field(default_factory=HeadArguments)
    method: Any = None
    push: bool = False
    token: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return the arguments as one dictionary."""
        groups = (self.model, self.adapter, self.data, self.run, self.head, *([self.method] if self.method else []))
        return {entry.name: getattr(group, entry.name) for group in groups for entry in dataclasses.fields(group)}


def take_hub_options(run: RunArguments) -> tuple[bool, str | None]:
    """Take whether to upload, and with which token, out of the arguments: Trainer must not upload, or keep tokens."""
    options = (run.push_to_hub, run.hub_token)
    run.push_to_hub, run.hub_token = False, None
    return options


def plain(value: Any) -> Any:
    """Return the value in the terms of JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool, type(None))):
        return value
    return str(getattr(value, "value", value))
