"""A tiny regression, a Trainer for it, and a callback that counts the rows it sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from evaluation_hooks import EvaluationCallback, Observer


class Line(nn.Module):
    """`y = a x`, with the squared error as its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.a * x - labels).square().mean(), "y": self.a * x}


class Numbers(Dataset):
    """The numbers from 0, and twice as much."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.tensor(float(index)), "labels": torch.tensor(2.0 * index)}


class RowObserver(Observer):
    """Rows that a model was given in evaluation mode."""

    def hooks(self) -> list[Any]:
        return [self.model.register_forward_hook(self._count, with_kwargs=True)]

    def forget(self) -> None:
        self.rows: list[float] = []

    def _count(self, module: nn.Module, args: Any, inputs: dict[str, Tensor], output: Any) -> None:
        if self.is_watching and not module.training:
            self.rows += inputs["x"].tolist()


class RowCallback(EvaluationCallback):
    """Logs how many rows were seen, and their sum."""

    subject = "rows"
    nothing_seen = "no row went through the Trainer's model"

    def __init__(self, trainer: Any, loaders: Any = None, *, piggyback: bool = True) -> None:
        super().__init__(trainer, loaders, piggyback=piggyback)
        self.observer: RowObserver = RowObserver(trainer.model)
        self.undefined = False

    def measure(self) -> dict[str, float]:
        if self.undefined:
            raise ValueError("rows have no sum today")
        rows = self.observer.rows
        return {"rows": float(len(rows)), "sum": sum(rows)} if rows else {}

    def skipped(self) -> list[str]:
        return ["1 batches had a negative row"] if min(self.observer.rows, default=0) < 0 else []


def trainer(folder: Any, **settings: Any) -> Trainer:
    """Evaluates ten rows every two of four steps."""
    defaults = {
        "max_steps": 4, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 1e-2,
        "eval_strategy": "steps", "eval_steps": 2, "report_to": "none", "use_cpu": True, "save_strategy": "no",
        "disable_tqdm": True,
    }  # fmt: skip
    arguments = TrainingArguments(str(folder), **(defaults | settings))
    return Trainer(Line(), arguments, train_dataset=Numbers(8), eval_dataset=Numbers(10))


def logged(run: Trainer, name: str) -> list[float]:
    """Every value of a metric in the Trainer's log."""
    return [entry[name] for entry in run.state.log_history if name in entry]
