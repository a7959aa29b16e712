"""The learning rate of a run, the step rule, and what shards the weights."""

from __future__ import annotations

import math
import os
import warnings

from peft import LoraConfig
from torch import nn

from training.errors import UsageError
from training.models.adapters import adapted_parts, config_of, is_deep_lora
from training.settings.adapter import AdapterArguments
from training.settings.common import RunArguments

_SHARDING = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}  # accelerate's variables
RATE = 1e-3  # LoRA's usual one, and that of a new head
LOGS = 10  # of a run, at least, and steps between two of them at most
EPOCHS, STEPS = 3, 100  # of a run, at least, unless its length is given


def is_ruled(adapter: AdapterArguments, model: nn.Module) -> bool:
    """Tell whether the adapter is trained by the step rule.

    Raises:
        UsageError: the rule was asked for and cannot work with the adapter, or with how the weights are sharded.
    """
    ours = is_deep_lora(model)
    if not (ours if adapter.path_length is None else adapter.path_length):
        return False
    if not ours and not any(isinstance(config_of(part), LoraConfig) for part in adapted_parts(model).values()):
        raise UsageError("--path_length works only with deep_lora and lora; leave it out for other methods")
    sharded = sharding_frameworks()
    if sharded and not (sharded == ["FSDP"] and os.environ.get("FSDP_VERSION") == "2"):
        raise UsageError(
            f"the step rule measures whole factors, but an optimizer under {sharded[0]} sees flattened pieces; use DDP "
            "or FSDP 2 (ddp.yaml, fsdp2.yaml), or pass --path_length 0 and a --learning_rate"
        )
    return True


def choose_rate(run: RunArguments) -> None:
    """Set the learning rate of a run where none is given."""
    if run.learning_rate is None:
        run.learning_rate = RATE


def choose_length(run: RunArguments, rows: int) -> None:
    """Set epochs and logs where none are given: 3 epochs, and 100 steps, at least, and ten logs of a short run."""
    batches = math.ceil(rows / (run.train_batch_size * run.world_size))
    steps = math.ceil(batches / run.gradient_accumulation_steps)
    if run.num_train_epochs is None:
        run.num_train_epochs = float(max(EPOCHS, math.ceil(STEPS / steps)))
    whole = run.max_steps if run.max_steps > 0 else math.ceil(steps * run.num_train_epochs)
    if run.warmup_steps >= whole:  # below 1 it is a share of them
        warnings.warn(
            f"--warmup_steps {run.warmup_steps:g} are no fewer than the {whole} steps of the run, so the learning "
            "rate is never reached; pass fewer, or more --max_steps",
            stacklevel=3,
        )
    if run.logs_by_length:
        run.logging_steps = max(1, min(LOGS, whole // LOGS))


def sharding_frameworks() -> list[str]:
    """Return what accelerate was told to shard the weights over processes with, if anything."""
    return [name for name, variable in _SHARDING.items() if os.environ.get(variable, "false").lower() == "true"]
