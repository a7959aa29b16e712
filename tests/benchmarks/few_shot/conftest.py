"""A small task that the tests of the few-shot study share."""

from __future__ import annotations

import pytest

from benchmarks.few_shot.tasks import TASKS
from benchmarks.few_shot.tasks.base import Task, TaskSettings
from tests.benchmarks.cases import SMALL


@pytest.fixture
def word_pairs() -> Task:
    return TASKS["simlex"](TaskSettings(name="simlex", **SMALL))
