"""LoRA under Deep LoRA's bound and with its limited steps: how much of a difference is theirs, and not the method's.

And another limit for the cores, which was tried for what it does over the ranks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.optim import Optimizer

from deep_lora.layers.bound import bound_factor, rms_singular_value
from deep_lora.optimizer.steps import RelativeStepLimit

ADAPTER = "default"
CORE_NDIM = 3  # of the tensor that stacks a layer's cores


def bound_lora_(model: nn.Module, max_update_norm: float) -> None:
    """Every forward pass of a LoRA layer scales its update as `DeepLoraConfig.max_update_norm` scales Deep LoRA's."""
    for module in _layers(model):
        module.register_forward_pre_hook(_Bounded(module.scaling[ADAPTER], _bound(module, max_update_norm)))


class _Bounded:
    def __init__(self, scaling: float, bound: Tensor) -> None:
        self.scaling, self.bound = scaling, bound

    def __call__(self, layer: Any, args: tuple[Any, ...]) -> None:
        A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        middle = self.scaling * torch.eye(len(A))
        layer.scaling[ADAPTER] = self.scaling * bound_factor(B, middle, A.mT, self.bound)


class LoraStepLimit:
    """Hooks of an optimizer: no step of A is longer than a share of its norm, and none of B than that of its measure.

    B starts at zero, so its measure is its norm or, as long as that is larger, `b / (s rms(A))`: the norm at which the
    update `s B A` would reach its bound b, were the rows of A orthogonal and all as long as their root-mean-square
    singular value. Otherwise as `deep_lora.optimizer.steps.RelativeStepLimit`; AdamW's steps alone, one tensor by one.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module, limit: float, max_update_norm: float) -> None:
        self.limit = limit
        self.measures: dict[nn.Parameter, float] = {}
        for layer in _layers(model):
            A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            reach = _bound(layer, max_update_norm) / (layer.scaling[ADAPTER] * rms_singular_value(A.detach()))
            self.measures |= {A: 0.0, B: reach.item()}
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._shorten)

    @torch.no_grad()
    def _remember(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.before = {parameter: parameter.detach().clone() for parameter in self.measures}

    @torch.no_grad()
    def _shorten(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        group = optimizer.param_groups[0]
        left = group["lr"] / group.get("initial_lr", group["lr"])
        for parameter, measure in self.measures.items():
            old = self.before[parameter]
            step = parameter - old
            allowed = self.limit * left * max(old.norm().item(), measure)
            parameter.copy_(old + step * min(1.0, allowed / max(step.norm().item(), 1e-30)))


class RankStepLimit(RelativeStepLimit):
    """Another limit for the cores, `sqrt(r / 8)` times the given one.

    Adam spreads a step over all r^2 entries of a core, whose norm grows with sqrt(r) only: so every entry may move as
    it does at rank 8. The rank is the same in all layers here.
    """

    def _remember(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super()._remember(optimizer, args, kwargs)
        self._before = [
            (tensors, before, limit * math.sqrt(tensors[0].shape[-1] / 8) if tensors[0].ndim == CORE_NDIM else limit)
            for tensors, before, limit in self._before
        ]


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def _bound(layer: Any, max_update_norm: float) -> Tensor:
    return max_update_norm * rms_singular_value(layer.get_base_layer().weight.detach())
