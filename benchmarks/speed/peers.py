"""The methods that are compared, each put on the same frozen model with the same targets and rank."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, VeraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim import Optimizer

from deep_lora import DeepLoraConfig, StepRule

MANY_STEPS = 10_000  # of the run that the step rule plans for


class _GradientMark(torch.autograd.Function):
    """Identity whose output requires grad."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return grad_output, None


def frozen(model: nn.Module, targets: str, rank: int) -> nn.Module:
    """Add no adapter, but let gradients flow back as far as they would to the first adapted modules: the limit."""
    anchor = torch.zeros((), device=next(model.parameters()).device, requires_grad=True)

    def mark(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return None if args[0].requires_grad or not torch.is_grad_enabled() else _GradientMark.apply(output, anchor)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and re.fullmatch(targets, name):
            module.register_forward_hook(mark)
    return model


def lora(model: nn.Module, targets: str, rank: int) -> nn.Module:
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))


def dora(model: nn.Module, targets: str, rank: int) -> nn.Module:
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, use_dora=True))


def vera(model: nn.Module, targets: str, rank: int) -> nn.Module:
    return get_peft_model(model, VeraConfig(r=rank, target_modules=targets))


def deep_lora(model: nn.Module, targets: str, rank: int) -> nn.Module:
    return get_peft_model(model, DeepLoraConfig(r=rank, target_modules=targets))


def deep_lora_frozen(model: nn.Module, targets: str, rank: int) -> nn.Module:
    return get_peft_model(model, DeepLoraConfig(r=rank, target_modules=targets, freeze_subspaces=True))


METHODS: dict[str, Callable[[nn.Module, str, int], nn.Module]] = {
    "frozen": frozen,
    "lora": lora,
    "dora": dora,
    "vera": vera,
    "deep_lora": deep_lora,
    "deep_lora_ruled": deep_lora,
    "deep_lora_frozen": deep_lora_frozen,
}


def optimizer_of(model: nn.Module, method: str) -> Optimizer | None:
    """Make AdamW over what is trained, with the step rule if the method has it; None for a frozen model."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return None
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    if method.endswith("_ruled"):
        StepRule(optimizer, model, MANY_STEPS)
    return optimizer


def adapted(model: nn.Module, method: str, targets: str, rank: int) -> nn.Module:
    """Put the adapter of that method on `model` ("deep_lora@64" asks for another rank than the given one)."""
    name, _, other_rank = method.partition("@")
    return METHODS[name](model, targets, int(other_rank or rank))
