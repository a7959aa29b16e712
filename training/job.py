"""`Job`: everything that decides a fine-tuning run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from training.settings.common import AdapterArguments, DataArguments, ModelArguments, RunArguments
from training.tasks.base import Task


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
    normalized_head: bool = False
    head_temperature: float | None = None
    push: bool = False
    token: str | None = None
    method: Any = None

    def settings(self) -> dict[str, Any]:
        """The arguments as one dictionary."""
        groups = (self.model, self.adapter, self.data, self.run, *([self.method] if self.method else []))
        return {entry.name: getattr(group, entry.name) for group in groups for entry in dataclasses.fields(group)} | {
            "normalized_head": self.normalized_head,
            "head_temperature": self.head_temperature,
        }


def take_hub_options(run: RunArguments) -> tuple[bool, str | None]:
    """Whether to upload, and with which token. Both leave the arguments: Trainer is not to upload or keep tokens."""
    options = (run.push_to_hub, run.hub_token)
    run.push_to_hub, run.hub_token = False, None
    return options
