"""The learning rate of a run, and what shards its weights."""

from __future__ import annotations

import os

from torch import nn
from transformers import SchedulerType

from training.models.adapters import is_deep_lora
from training.settings.common import RunArguments

_SHARDING = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}  # accelerate's variables
RATE, FALLING_RATE = 1e-3, 3e-3  # docs/few_shot.md: the best rates of Deep LoRA with either kind of schedule
STEADY = ("constant", "constant_with_warmup", "reduce_lr_on_plateau", "greedy")  # do not decay by themselves


def choose_rate(run: RunArguments, model: nn.Module) -> None:
    """Set the learning rate of a run where none is given."""
    if run.learning_rate is None:
        falls = SchedulerType(run.lr_scheduler_type).value not in STEADY
        run.learning_rate = FALLING_RATE if falls and is_deep_lora(model) else RATE


def sharding_frameworks() -> list[str]:
    """Return what accelerate was told to shard the weights over processes with, if anything."""
    return [name for name, variable in _SHARDING.items() if os.environ.get(variable, "false").lower() == "true"]
