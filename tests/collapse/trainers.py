"""Tiny Trainers: a BERT or Llama on random sentences of three classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from tests.collapse.architectures import ARCHITECTURES, LABELS, Architecture
from tests.models import VOCABULARY

BERT = ARCHITECTURES[0]
LLAMA = next(a for a in ARCHITECTURES if a.model.startswith("Llama"))
TOKENS = 6


class Sentences(Dataset):
    """Random sentences; each ends with padding of its own length."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % LABELS
        self.tokens = torch.randint(3, VOCABULARY, (count, TOKENS), generator=generator)
        self.tokens[:, 0] = 3 + self.labels
        lengths = torch.randint(3, TOKENS + 1, (count, 1), generator=generator)
        self.mask = (torch.arange(TOKENS) < lengths).long()
        self.tokens *= self.mask

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "input_ids": self.tokens[index],
            "attention_mask": self.mask[index],
            "labels": self.labels[index],
        }


def trainer(folder: Any, model: nn.Module | None = None, *, eval_count: int = 10, **settings: Any) -> Trainer:
    """Evaluates every two steps, logs nowhere but in its state."""
    defaults = {
        "max_steps": 4, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 1e-2,
        "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1, "report_to": "none", "use_cpu": True,
        "save_strategy": "no", "seed": 1, "disable_tqdm": True,
    }  # fmt: skip
    made = {"model_init": settings.pop("model_init")} if "model_init" in settings else {"model": model or BERT.build()}
    arguments = TrainingArguments(str(folder), **(defaults | settings))
    return Trainer(**made, args=arguments, train_dataset=Sentences(16, 1), eval_dataset=Sentences(eval_count, 2))


def logged(run: Trainer, name: str) -> list[float]:
    """Every value of a metric in the Trainer's log."""
    return [entry[name] for entry in run.state.log_history if name in entry]


def train(model: nn.Module, architecture: Architecture, steps: int = 3, rate: float = 0.5) -> None:
    """Take a few steps of gradient descent on one batch."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**architecture.batch()).loss.backward()
        optimizer.step()
