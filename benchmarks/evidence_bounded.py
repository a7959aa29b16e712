"""LoRA with Deep LoRA's bound on the norm of its updates: how much of a difference is the bound's own."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn

from deep_lora.bound import bound_factor, rms_singular_value

ADAPTER = "default"


def bound_lora_(model: nn.Module, max_update_norm: float) -> None:
    """Every forward pass of a LoRA layer scales its update as `DeepLoraConfig.max_update_norm` scales Deep LoRA's."""
    for module in model.modules():
        if isinstance(module, Linear):
            bound = max_update_norm * rms_singular_value(module.get_base_layer().weight.detach())
            module.register_forward_pre_hook(_Bounded(module.scaling[ADAPTER], bound))


class _Bounded:
    def __init__(self, scaling: float, bound: torch.Tensor) -> None:
        self.scaling, self.bound = scaling, bound

    def __call__(self, layer: Any, args: tuple[Any, ...]) -> None:
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        middle = self.scaling * torch.eye(len(A))
        layer.scaling[ADAPTER] = self.scaling * bound_factor(B, middle, A.mT, self.bound)
