"""The rate of a run, and what `deep_lora.create_optimizer` is told by a command."""

from __future__ import annotations

import os

from torch import nn
from transformers import SchedulerType

from deep_lora import DeepLoraConfig
from training.errors import UsageError
from training.models.adapters import adapted_parts, config_of
from training.settings.common import AdapterArguments, RunArguments

SPREADING = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}  # accelerate's variables


RATE, FALLING_RATE = 1e-3, 3e-3  # docs/few_shot.md: which rate Deep LoRA wants with either kind of schedule
STEADY = ("constant", "constant_with_warmup", "reduce_lr_on_plateau", "greedy")  # do not fall by themselves


def choose_rate(run: RunArguments, model: nn.Module) -> None:
    """Sets the rate of a run where none is given."""
    if run.learning_rate is None:
        falls = SchedulerType(run.lr_scheduler_type).value not in STEADY
        run.learning_rate = FALLING_RATE if falls and _ours(model) else RATE


def optimizer_settings(arguments: AdapterArguments, model: nn.Module) -> dict[str, float]:
    """Keywords of `create_optimizer` besides rate and decay; none if Trainer's own optimizer will do.

    Raises:
        UsageError: steps are to be limited, or what is beside the adapter to have its own rate, and that cannot be.
    """
    ours = _ours(model)
    options = {
        "max_relative_step": arguments.max_relative_step,
        "other_lr": arguments.other_learning_rate,
        "gamma": None if arguments.gamma == 1.0 else arguments.gamma,
    }
    asked = {name: value for name, value in options.items() if value is not None}
    if asked and not ours:
        option = next(iter(asked)).replace("other_lr", "other_learning_rate")
        raise UsageError(f"--{option} goes with --adapter deep_lora; leave it out for another method")
    if "max_relative_step" in asked:
        _check_limit(ours)
    return asked


def spreading() -> list[str]:
    """What accelerate was told to spread the weights over processes with, if anything."""
    return [name for name, variable in SPREADING.items() if os.environ.get(variable, "false").lower() == "true"]


def _ours(model: nn.Module) -> list[DeepLoraConfig]:
    configs = [config_of(part) for part in adapted_parts(model).values()]
    return [config for config in configs if isinstance(config, DeepLoraConfig)]


def _check_limit(configs: list[DeepLoraConfig]) -> None:
    if any(config.max_update_norm is None for config in configs):
        raise UsageError(
            "--max_relative_step without a bound lets the updates grow exponentially; pass --max_update_norm too (0.4, "
            "say), or max_update_norm in the file of --adapter_config"
        )
    spread = spreading()
    if spread and not (spread == ["FSDP"] and os.environ.get("FSDP_VERSION") == "2"):
        raise UsageError(
            f"--max_relative_step compares whole factors, of which an optimizer under {spread[0]} sees flattened "
            "pieces; use DDP or FSDP 2 (ddp.yaml, fsdp2.yaml)"
        )
