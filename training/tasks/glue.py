"""The GLUE tasks by name: their columns, metrics and splits.

Source: Wang et al., GLUE, ICLR 2019, table 1 (metrics). The labels of the test splits are hidden, so only validation
results are reported.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from training.errors import UsageError
from training.settings.data import TextDataArguments


class GlueTask(NamedTuple):
    """Text columns, metrics, and the split to validate on."""

    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: str = "validation"
    regression: bool = False


TASKS = {
    "cola": GlueTask(("sentence",), ("matthews_correlation",)),
    "sst2": GlueTask(("sentence",), ("accuracy",)),
    "mrpc": GlueTask(("sentence1", "sentence2"), ("accuracy", "f1")),
    "qqp": GlueTask(("question1", "question2"), ("accuracy", "f1")),
    "stsb": GlueTask(("sentence1", "sentence2"), ("pearsonr", "spearmanr"), regression=True),
    "mnli": GlueTask(("premise", "hypothesis"), ("accuracy",), "validation_matched"),
    "qnli": GlueTask(("question", "sentence"), ("accuracy",)),
    "rte": GlueTask(("sentence1", "sentence2"), ("accuracy",)),
    "wnli": GlueTask(("sentence1", "sentence2"), ("accuracy",)),
}
REPOSITORY = "nyu-mll/glue"


def find(name: str) -> GlueTask:
    """Return a task by its name.

    Raises:
        UsageError: there is no such task.
    """
    if name not in TASKS:
        raise UsageError(f"--glue got {name!r}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]


def with_glue(data: TextDataArguments, name: str) -> TextDataArguments:
    """Return the arguments with task, source, splits and columns of a GLUE task; a --dataset that was passed stays.

    Raises:
        UsageError: there is no such task.
    """
    task = find(name)
    own = data.dataset is not None
    return dataclasses.replace(
        data,
        task="regression" if task.regression else "classification",
        dataset=data.dataset if own else REPOSITORY,
        dataset_config=data.dataset_config if own else name,
        validation_split=data.validation_split if own else data.validation_split or task.validation,
        label_column=data.label_column or "label",
        text_column=task.columns[0],
        text_pair_column=task.columns[1] if len(task.columns) > 1 else None,
    )
