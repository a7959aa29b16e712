"""How far the adapters of a Trainer's model move in every step."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from deep_lora import DeepLoraCallback
from tests.models import layers_of


class StepLengths(TrainerCallback):
    """How far the updates of all layers move in every step, as shares of the weights' norms."""

    def __init__(self, model: nn.Module) -> None:
        self.layers, self.found = layers_of(model), list[list[float]]()

    def _updates(self) -> list[Tensor]:
        return [layer.get_delta_weight("default").detach().clone() for layer in self.layers]

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.before = self._updates()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        moved = [(new - old).norm() for new, old in zip(self._updates(), self.before, strict=True)]
        weights = [layer.get_base_layer().weight.norm() for layer in self.layers]
        self.found.append([(m / w).item() for m, w in zip(moved, weights, strict=True)])


class Guards(TrainerCallback):
    """What the guard of a rule left at every step."""

    def __init__(self, callback: DeepLoraCallback) -> None:
        self.callback, self.found = callback, list[float]()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        assert self.callback.rule is not None
        self.found.append(self.callback.rule.guard)


def train_and_check_lengths(trainer: Trainer, callback: DeepLoraCallback) -> list[float]:
    """Train, with a rate that falls linearly; see that every step has its length, and return what the guard left."""
    lengths, guards = StepLengths(trainer.model), Guards(callback)
    for observer in (lengths, guards):
        trainer.add_callback(observer)
    trainer.train()
    steps = trainer.state.max_steps
    whole = sum(1 - t / steps for t in range(steps))
    assert len(lengths.found) == len(guards.found) == steps
    for t, (found, left) in enumerate(zip(lengths.found, guards.found, strict=True)):
        assert found == pytest.approx([callback.path * left * (1 - t / steps) / whole] * len(found), rel=0.01), t
    return guards.found
