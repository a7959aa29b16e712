"""The tasks of the few-shot study, by the name that settings give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.few_shot.tasks.base import Task, TaskSettings
from benchmarks.few_shot.tasks.encoders import ImageTags, RareWords, RelatedWords, Reviews, SentencePairs, WordPairs
from benchmarks.few_shot.tasks.writing import Glosses, Restaurants

TASKS: dict[str, Callable[[TaskSettings], Task]] = {
    "simlex": WordPairs, "wordsim": RelatedWords, "rare_words": RareWords, "men": ImageTags,
    "rotten_tomatoes": Reviews, "stsb": SentencePairs, "e2e": Restaurants, "glosses": Glosses,
}  # fmt: skip


def task_of(settings: dict[str, Any]) -> Task:
    """Make the task that a set of settings names."""
    chosen = TaskSettings(**settings["task"])
    return TASKS[chosen.name](chosen)
