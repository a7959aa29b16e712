"""A Trainer that schedules, swaps and drops out, is killed between checkpoints, and resumes."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback, default_data_collator

import modality.losses.objective
from modality import (
    ContrastiveModel,
    LinearSchedule,
    ModalitySwapCollator,
    Temperature,
    TemperatureScheduleCallback,
)
from tests.modality.trainers import clip, trainer

STEPS, SAVED_AT, KILLED_AT = 8, 3, 5  # of 10 steps an epoch for one process, of 5 for two


class Killed(Exception):
    """Takes the place of a signal."""


class Record(TrainerCallback):
    """Temperatures and swaps of the steps that are taken; ends the process, or raises, at a step."""

    def __init__(self, killed_at: int | None = None, end_process: bool = False) -> None:
        self.killed_at, self.end_process = killed_at, end_process
        self.taus: dict[int, float] = {}
        self.swaps: dict[int, tuple[int, float]] = {}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        def recorded(x: Tensor, y: Tensor, rule: Any, step: int, rank: int = 0) -> tuple[Tensor, Tensor]:
            new_x, new_y = self._apply(x, y, rule, step, rank)
            self.swaps[step] = (rank, (new_x - x).detach().abs().sum().item())
            return new_x, new_y

        self._apply, modality.losses.objective.apply_swap = modality.losses.objective.apply_swap, recorded

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        modality.losses.objective.apply_swap = self._apply

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.taus[state.global_step] = model.temperature.tau
        if state.global_step == self.killed_at:
            modality.losses.objective.apply_swap = self._apply
            if self.end_process:
                os._exit(0)
            raise Killed


def make(folder: str, record: Record, seed: int = 0, per: str = "step", **settings: Any) -> Trainer:
    model = ContrastiveModel(clip(dropout=0.3, seed=seed), temperature=Temperature(mode="scheduled"))
    collator = ModalitySwapCollator(default_data_collator, "hard", 0.5, per=per, seed=11)
    return trainer(
        folder, model, data_collator=collator, count=40, max_steps=STEPS, save_strategy="steps", save_steps=SAVED_AT,
        callbacks=[TemperatureScheduleCallback(LinearSchedule(0.05, 0.5)), record], **settings,
    )  # fmt: skip


def outcome(run: Trainer, record: Record) -> dict[str, Any]:
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    return {"taus": record.taus, "swaps": record.swaps, "weights": weights}
