"""LoRA under Deep LoRA's bound and with its limited steps: how much of a difference comes from them.

And another limit for Deep LoRA's cores, tried for its effect over the ranks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.optim import Optimizer

ADAPTER = "default"
CORE_NDIM = 3  # of the tensor that stacks a layer's cores


def bound_lora_(model: nn.Module, max_update_norm: float) -> None:
    """Scale the update of every LoRA layer as `DeepLoraConfig.max_update_norm` scales Deep LoRA's.

    In each forward pass `s B A` is multiplied by `1 / sqrt(1 + ||s B A||_F^2 / b^2)`, with b `max_update_norm` times
    the root-mean-square singular value of the base weight.
    """
    for module in _layers(model):
        module.register_forward_pre_hook(_Bounded(module.scaling[ADAPTER], _bound(module, max_update_norm)))


class _Bounded:
    def __init__(self, scaling: float, bound: Tensor) -> None:
        self.scaling, self.bound = scaling, bound

    def __call__(self, layer: Any, args: tuple[Any, ...]) -> None:
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        squared = ((B.mT @ B) * (A @ A.mT)).sum().clamp(min=0) * self.scaling**2  # of the update's norm
        layer.scaling[ADAPTER] = self.scaling * (1 + squared / self.bound**2).rsqrt()


class StepLimit:
    """Hooks of an optimizer: no step of a tensor is longer than a share of its norm, or of a floor of the norm.

    As `deep_lora.create_optimizer(max_relative_step=...)` does it, with a limit for each tensor; the limit falls with
    the learning rate.

    Args:
        optimizer: whose steps are limited.
        limits: the share for each tensor.
        floors: for each tensor the norm that counts while its own is smaller; 0 where it is missing.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        limits: dict[nn.Parameter, float],
        floors: dict[nn.Parameter, float] | None = None,
    ) -> None:
        self.limits, self.floors = limits, floors or {}
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._shorten)

    @torch.no_grad()
    def _remember(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.before = {parameter: parameter.detach().clone() for parameter in self.limits}

    @torch.no_grad()
    def _shorten(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        group = optimizer.param_groups[0]
        left = group["lr"] / group.get("initial_lr", group["lr"])
        for parameter, limit in self.limits.items():
            old = self.before[parameter]
            step = parameter - old
            allowed = limit * left * max(old.norm().item(), self.floors.get(parameter, 0.0))
            parameter.copy_(old + step * min(1.0, allowed / max(step.norm().item(), 1e-30)))


def limit_lora_steps(optimizer: Optimizer, model: nn.Module, limit: float, max_update_norm: float) -> StepLimit:
    """Limit the steps of every A and B of LoRA.

    B is zero at first, so its floor is `b / (s rms(A))`: the norm at which the update `s B A` would reach its bound b
    if the rows of A were orthogonal and all as long as their root-mean-square singular value.
    """
    limits, floors = {}, {}
    for layer in _layers(model):
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        reach = _bound(layer, max_update_norm) / (layer.scaling[ADAPTER] * _rms_singular_value(A.detach()))
        limits |= {A: limit, B: limit}
        floors[B] = reach.item()
    return StepLimit(optimizer, limits, floors)


def limit_steps_by_rank(optimizer: Optimizer, model: nn.Module, limit: float) -> StepLimit:
    """Limit the steps of Deep LoRA's tensors, those of cores to `sqrt(r / 8)` times the given share.

    Adam spreads a step over all r^2 entries of a core, whose norm grows with sqrt(r) only: so every entry may move as
    far as at rank 8.
    """
    limits = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "deep_lora_" in name:
            core = parameter.ndim == CORE_NDIM
            limits[parameter] = limit * math.sqrt(parameter.shape[-1] / 8) if core else limit
    return StepLimit(optimizer, limits)


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def _bound(layer: Any, max_update_norm: float) -> Tensor:
    return max_update_norm * _rms_singular_value(layer.get_base_layer().weight.detach())


def _rms_singular_value(weight: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(weight) / min(weight.shape) ** 0.5
