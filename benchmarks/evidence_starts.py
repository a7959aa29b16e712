"""Starts of adapters that the library does not offer, for the campaign's ablations and baselines.

The models are small: the gradient of every adapted weight is formed as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from deep_lora.layer import DeepLoraLayer
from deep_lora.restoring import dropout_off
from dmf import OrthogonalMap, one_sided_bases

Gradients = Callable[[], None]
ADAPTER = "default"


@torch.no_grad()
def _normal(model: nn.Module, gradients: Gradients, seed: int) -> None:
    """LoRA as the paper's baseline starts it: A of standard normal entries, B = 0."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_A[ADAPTER].weight.normal_()


def _aligned(model: nn.Module, gradients: Gradients, seed: int) -> None:
    """All r directions from the gradient, with signs by which growing cores lower the loss: U = -A, V = B."""
    for layer, gradient in _weight_gradients(model, gradients):
        left, right = _leading(gradient, layer.r[ADAPTER])
        _write(layer, -left, right)


def _one_sided(take_left: bool) -> Callable[[nn.Module, Gradients, int], None]:
    """All columns from left (or from right) singular vectors and their partners, instead of half from either."""

    def start(model: nn.Module, gradients: Gradients, seed: int) -> None:
        for number, (layer, gradient) in enumerate(_weight_gradients(model, gradients)):
            left, right = _leading(gradient, layer.r[ADAPTER])
            q = OrthogonalMap(layer.out_features, layer.in_features, seed + number)
            _write(layer, *(one_sided_bases(left, q.transpose)[::-1] if take_left else one_sided_bases(right, q)))

    return start


STARTS: dict[str, Callable[[nn.Module, Gradients, int], None]] = {
    "normal": _normal, "aligned": _aligned, "left": _one_sided(True), "right": _one_sided(False),
}  # fmt: skip


def _weight_gradients(model: nn.Module, gradients: Gradients) -> list[tuple[DeepLoraLayer, Tensor]]:
    layers = [module for module in model.modules() if isinstance(module, DeepLoraLayer)]
    weights = [layer.get_base_layer().weight.requires_grad_() for layer in layers]
    with dropout_off(model):
        gradients()
    found = [weight.grad for weight in weights]
    model.zero_grad()
    for weight in weights:
        weight.requires_grad_(False)
    return list(zip(layers, found, strict=True))


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    left, _, right = torch.svd_lowrank(matrix, rank + 8, 4)
    return left[:, :rank], right[:, :rank]


@torch.no_grad()
def _write(layer: DeepLoraLayer, U: Tensor, V: Tensor) -> None:
    layer.deep_lora_U[ADAPTER].copy_(U)
    layer.deep_lora_V[ADAPTER].copy_(V)
