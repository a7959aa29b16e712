"""The tasks of `deep-lora finetune`. A new one is a function in a file of this folder, and its name here."""

from __future__ import annotations

from collections.abc import Callable

from training.data import Splits
from training.errors import UsageError
from training.job import Task
from training.settings.data import TextDataArguments
from training.tasks.language import causal_lm, seq2seq
from training.tasks.text_classification import classification, regression
from training.tasks.token_classification import token_classification

_BUILDERS: tuple[Callable[[Splits, TextDataArguments, str], Task], ...] = (
    classification,
    regression,
    token_classification,
    causal_lm,
    seq2seq,
)
# By the name on the command line, which is that of the function.
TASKS = {builder.__name__: builder for builder in _BUILDERS}


def require_task(name: str) -> None:
    """Raise if there is no task of this name.

    Raises:
        UsageError: the text lists the tasks.
    """
    if name not in TASKS:
        raise UsageError(f"--task got {name!r}; choose one of: {', '.join(TASKS)}")
