"""The learning rate of a run, and the keywords of `deep_lora.create_optimizer`."""

from __future__ import annotations

import os

from torch import nn
from transformers import SchedulerType

from deep_lora import DeepLoraConfig
from training.errors import UsageError
from training.models.adapters import adapted_parts, config_of
from training.settings.adapter import AdapterArguments
from training.settings.common import RunArguments

_SHARDING = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}  # accelerate's variables
RATE, FALLING_RATE = 1e-3, 3e-3  # docs/few_shot.md: the best rates of Deep LoRA with either kind of schedule
STEADY = ("constant", "constant_with_warmup", "reduce_lr_on_plateau", "greedy")  # do not decay by themselves


def choose_rate(run: RunArguments, model: nn.Module) -> None:
    """Set the learning rate of a run where none is given."""
    if run.learning_rate is None:
        falls = SchedulerType(run.lr_scheduler_type).value not in STEADY
        run.learning_rate = FALLING_RATE if falls and _ours(model) else RATE


def optimizer_settings(arguments: AdapterArguments, model: nn.Module) -> dict[str, float]:
    """Return the keywords of `create_optimizer` besides rate and decay; none if Trainer's own optimizer will do.

    Raises:
        UsageError: an option does not fit the adapter, or how the weights are sharded.
    """
    ours = _ours(model)
    knobs = arguments.knobs()
    if knobs and not ours:
        raise UsageError(f"--{knobs[0].option} goes with --adapter deep_lora; leave it out for another method")
    if arguments.max_relative_step is not None:
        _check_limit(ours)
    return {knob.keyword: knob.value for knob in knobs}


def sharding_frameworks() -> list[str]:
    """Return what accelerate was told to shard the weights over processes with, if anything."""
    return [name for name, variable in _SHARDING.items() if os.environ.get(variable, "false").lower() == "true"]


def _ours(model: nn.Module) -> list[DeepLoraConfig]:
    configs = [config_of(part) for part in adapted_parts(model).values()]
    return [config for config in configs if isinstance(config, DeepLoraConfig)]


def _check_limit(configs: list[DeepLoraConfig]) -> None:
    if any(config.max_update_norm is None for config in configs):
        raise UsageError(
            "--max_relative_step without a bound lets the updates grow exponentially; pass --max_update_norm too (0.4, "
            "say), or max_update_norm in the file of --adapter_config"
        )
    sharded = sharding_frameworks()
    if sharded and not (sharded == ["FSDP"] and os.environ.get("FSDP_VERSION") == "2"):
        raise UsageError(
            f"--max_relative_step compares whole factors, but an optimizer under {sharded[0]} sees flattened "
            "pieces; use DDP or FSDP 2 (ddp.yaml, fsdp2.yaml)"
        )
