"""The tasks of `deep-lora finetune`. A new one is a function in a file of this folder, and its name here."""

from __future__ import annotations

from collections.abc import Callable

from training.data import Splits, load_splits
from training.errors import UsageError
from training.job import Task
from training.reading.tables import Wanted
from training.settings.data import TextDataArguments
from training.tasks.base import generation_columns
from training.tasks.chat import chat, chat_columns, dpo, preference_check, preference_columns
from training.tasks.labels import row_classes
from training.tasks.language import causal_lm, seq2seq
from training.tasks.multilabel import multilabel, multilabel_columns, row_labels
from training.tasks.text_classification import class_columns, classification, label_column, number_columns, regression
from training.tasks.token_classification import row_tags, tag_column, tag_columns, token_classification

Columns = Callable[[TextDataArguments], list[Wanted]]
_BUILDERS: dict[Callable[[Splits, TextDataArguments, str], Task], Columns] = {
    classification: class_columns,
    regression: number_columns,
    multilabel: multilabel_columns,
    token_classification: tag_columns,
    causal_lm: generation_columns,
    seq2seq: generation_columns,
    chat: chat_columns,
    dpo: preference_columns,
}
# By the name on the command line, which is that of the function.
TASKS = {builder.__name__: builder for builder in _BUILDERS}
COLUMNS = {builder.__name__: columns for builder, columns in _BUILDERS.items()}


def load_task(data: TextDataArguments, metric_source: str) -> Task:
    """Load the data and build their task.

    Raises:
        UsageError: there is no such task, or the data do not fit it.
    """
    require_task(data.task)
    classes = {
        "classification": row_classes(label_column(data)), "token_classification": row_tags(tag_column(data)),
        "multilabel": row_labels(data),
    }.get(data.task)  # fmt: skip
    columns = COLUMNS[data.task](data)
    check = preference_check(columns) if data.task == "dpo" else None
    splits = load_splits(data, columns, classes=classes, check=check)
    return TASKS[data.task](splits, data, metric_source)


def require_task(name: str) -> None:
    """Raise if there is no task of this name.

    Raises:
        UsageError: the text lists the tasks.
    """
    if name not in TASKS:
        raise UsageError(f"--task got {name!r}; choose one of: {', '.join(TASKS)}")
