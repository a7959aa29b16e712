"""Initializations of adapters that the library does not offer, for the ablations and baselines of the study.

The models are small: the gradient of every adapted weight is formed as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from deep_lora import DeepLoraLayer, adapted_layers
from dmf.functional import orthogonal
from dmf.subspaces import OrthogonalMap, one_sided_subspaces

Gradients = Callable[[], None]
ADAPTER = "default"


@torch.no_grad()
def _normal(model: nn.Module, gradients: Gradients, seed: int) -> None:
    """Initialize LoRA as the paper's baseline does: standard normal entries in A, B = 0."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_A[ADAPTER].weight.normal_()


def _aligned(model: nn.Module, gradients: Gradients, seed: int) -> None:
    """Take all r directions from the gradient, with signs by which growing cores lower the loss: U = -A, V = B."""
    for layer, gradient in _weight_gradients(model, gradients):
        left, right = _leading(gradient, layer.r[ADAPTER])
        _write(layer, -left, right)


def _one_sided(take_left: bool) -> Callable[[nn.Module, Gradients, int], None]:
    """Take all columns from left (or right) singular vectors and their partners, instead of half from either."""

    def start(model: nn.Module, gradients: Gradients, seed: int) -> None:
        for number, (layer, gradient) in enumerate(_weight_gradients(model, gradients)):
            left, right = _leading(gradient, layer.r[ADAPTER])
            q = OrthogonalMap(layer.out_features, layer.in_features, seed + number)
            outer = one_sided_subspaces(left, q.transpose)[::-1] if take_left else one_sided_subspaces(right, q)
            _write(layer, *outer)

    return start


def _partners(map_of: Callable[[int, int, int], Callable[[Tensor], Tensor]]) -> Callable[..., None]:
    """Keep the library's V, with partners `U = Q V` under another orthogonal map Q than the library's."""

    def start(model: nn.Module, gradients: Gradients, seed: int) -> None:
        for number, layer in enumerate(_layers(model)):
            q = map_of(layer.out_features, layer.in_features, seed + number)
            V = layer.outer_scale[ADAPTER] * layer.deep_lora_V[ADAPTER].detach()
            _write(layer, *one_sided_subspaces(V, q))

    return start


def _signed_permutation(rows: int, columns: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Make a Q that moves rows of V, with random signs, to random places."""
    generator = torch.Generator().manual_seed(seed)
    small, large = sorted((rows, columns))
    signs = torch.randint(0, 2, (small, 1), generator=generator) * 2.0 - 1
    places = torch.randperm(large, generator=generator)[:small]

    def apply(matrix: Tensor) -> Tensor:
        if rows <= columns:
            return signs * matrix[places]
        return matrix.new_zeros(rows, matrix.shape[1]).index_copy(0, places, signs * matrix)

    return apply


def _thin_block(rows: int, columns: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Draw Q V, whatever V: random orthonormal columns, of the mean length that Q gives them."""
    generator = torch.Generator().manual_seed(seed)
    length = min(1.0, rows / columns) ** 0.5
    return lambda matrix: length * orthogonal(rows, matrix.shape[1], generator=generator)


STARTS: dict[str, Callable[[nn.Module, Gradients, int], None]] = {
    "normal": _normal, "aligned": _aligned, "left": _one_sided(True), "right": _one_sided(False),
    "permuted partners": _partners(_signed_permutation), "drawn partners": _partners(_thin_block),
}  # fmt: skip


def _layers(model: nn.Module) -> list[DeepLoraLayer]:
    return list(adapted_layers(model).values())


def _weight_gradients(model: nn.Module, gradients: Gradients) -> list[tuple[DeepLoraLayer, Tensor]]:
    layers = _layers(model)
    weights = [layer.get_base_layer().weight.requires_grad_() for layer in layers]
    modes = {module: module.training for module in model.modules()}
    model.eval()  # without dropout
    gradients()
    for module, training in modes.items():
        module.training = training
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
    layer.deep_lora_U[ADAPTER].copy_(U / layer.outer_scale[ADAPTER])
    layer.deep_lora_V[ADAPTER].copy_(V / layer.outer_scale[ADAPTER])
