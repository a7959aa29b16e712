"""The factors of adapted weights as the step rule sees them: Deep LoRA's `U N V^T` and PEFT's LoRA `s B A` alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper as LoraParamWrapper
from peft.utils.integrations import dequantize_module_weight, gather_params_ctx
from torch import Tensor, nn

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.sharded import gathered, write_

View = Callable[[Tensor], Tensor]
BOTH = (True, True)


@dataclass(frozen=True)
class Factor:
    """The part of a parameter that belongs to one weight: a matrix (features, r), or cores (n, r, r)."""

    parameter: nn.Parameter
    view: View

    def value(self) -> Tensor:
        return self.view(gathered(self.parameter.detach()))

    def gradient(self) -> Tensor:
        """Return the gradient; zero where the backward pass did not reach the parameter."""
        grad = self.parameter.grad
        return torch.zeros_like(self.value()) if grad is None else self.view(gathered(grad))

    def write_(self, value: Tensor) -> None:
        """Replace the value, on whatever processes it lies."""
        whole = gathered(self.parameter.detach()).clone()
        self.view(whole).copy_(value)
        write_(self.parameter, whole)


@dataclass(frozen=True)
class Factored:
    """One weight's update `X N Y^T`.

    Attributes:
        left, right, cores: X (out, r), Y (in, r), and the cores that N is made of; a LoRA has none.
        scale, core_scale: of N, and of every core in it.
        start: what the diagonals of the cores are at first, if that is subtracted; else 0.
        left_out: what of it the stored cores lack.
        norm: of the weight that is adapted, `|W|_F`.
        capped: whether steps of X and of Y are capped. One factor of a LoRA starts at zero, where a share of it says
            nothing.
    """

    left: Factor
    right: Factor
    cores: Factor | None
    scale: float
    core_scale: float
    start: float
    left_out: float
    norm: float
    capped: tuple[bool, bool]

    def parameters(self) -> list[nn.Parameter]:
        factors = [self.left, self.right] + ([] if self.cores is None else [self.cores])
        return [factor.parameter for factor in factors if factor.parameter.requires_grad]


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained factors of a model's Deep LoRA and LoRA layers."""
    layers = [layer for layer in model.modules() if isinstance(layer, DeepLoraLayer | LoraLayer)]
    holders = [getattr(layer, name, None) for layer in layers for name in layer.adapter_layer_names]
    found = [p for holder in holders if holder is not None for p in holder.parameters() if p.requires_grad]
    return list({id(p): p for p in found}.values())


def factored_weights(model: nn.Module) -> list[Factored]:
    """Return all trained updates of a model's Deep LoRA and LoRA layers; of stacked experts one for each.

    Raises:
        ValueError: a LoRA layer of a kind whose update is not a product of two matrices.
    """
    found: list[Factored] = []
    for layer in model.modules():
        if isinstance(layer, DeepLoraLayer):
            found += _of_deep_lora(layer)
        elif isinstance(layer, LoraLayer):
            found += _of_lora(layer)
    return [weight for weight in found if weight.parameters()]


def _of_deep_lora(layer: DeepLoraLayer) -> Iterator[Factored]:
    for name, core in layer.deep_lora_core.items():
        if name in layer.tied_to:
            continue  # it shares the parameters of another layer
        U, V = layer.deep_lora_U[name], layer.deep_lora_V[name]
        with gather_params_ctx(list(layer.get_base_layer().parameters(recurse=False))):
            weight = gathered(layer.get_base_weight().detach())
        experts = core.ndim == 4
        norms = _norms(weight, experts)
        start = float(layer.deep_lora_start[name]) if name in layer.deep_lora_start else 0.0
        for index, norm in enumerate(norms):
            of = [partial(_at, index=index), partial(_at, index=index, axis=1)] if experts else [_whole, _whole]
            factors = Factor(U, of[0]), Factor(V, of[0]), Factor(core, of[1])
            scales = layer.outer_scale[name] ** 2, layer.core_scale[name]
            yield Factored(*factors, *scales, start, start if layer.differences[name] else 0.0, norm, BOTH)


def _of_lora(layer: Any) -> Iterator[Factored]:
    embedding = bool(getattr(layer, "lora_embedding_A", None))
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    for name in getattr(layer, first):
        A, B = getattr(layer, first)[name], getattr(layer, second)[name]
        A, B = (A, B) if embedding else (A.weight, B.weight)
        experts = isinstance(layer, LoraParamWrapper) and layer.num_experts > 1
        base = layer.get_base_layer()
        with gather_params_ctx(list(base.parameters(recurse=False))):
            held = layer.get_param() if isinstance(layer, LoraParamWrapper) else dequantize_module_weight(base)
            weight = gathered(held.detach())
        scaling = layer.scaling[name]
        if scaling == 0:
            raise ValueError(f"adapter {name!r} has a scaling of 0, so no step moves the weight; set `lora_alpha`")
        for index, norm in enumerate(_norms(weight, experts)):
            right = partial(_expert_rows, index=index, experts=layer.num_experts) if experts else _rows
            left = partial(_expert_columns, index=index, experts=layer.num_experts) if experts else _columns
            yield Factored(
                Factor(B, left), Factor(A, right), None, scaling, 1.0, 0.0, 0.0, norm, (embedding, not embedding)
            )


def _norms(weight: Tensor, experts: bool) -> list[float]:
    """Return `|W|_F`, of every expert if there are several; of a weight that is zero that of a usual start, sqrt(out).

    >>> _norms(3 * torch.ones(4, 1), False), _norms(torch.zeros(4, 9), False)
    ([6.0], [2.0])
    """
    if weight.is_meta:
        raise ValueError(
            "an adapted weight is on the meta device, so its norm is unknown; load it before training starts"
        )
    weights = weight if experts else weight[None]
    norms = weights.flatten(1).float().norm(dim=1).tolist()
    return [norm if norm > 0 else weights.shape[1] ** 0.5 for norm in norms]


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def _at(tensor: Tensor, index: int, axis: int = 0) -> Tensor:
    return tensor.select(axis, index)


def _columns(B: Tensor) -> Tensor:
    """Return B (out, r) of a LoRA, whose convolutions have (out, r, 1, 1)."""
    return B.flatten(1)


def _rows(A: Tensor) -> Tensor:
    """Return A^T (in, r) of a LoRA's A (r, in), or (r, in, height, width)."""
    return A.flatten(1).mT


def _expert_columns(B: Tensor, index: int, experts: int) -> Tensor:
    return B.reshape(len(B), -1, experts)[..., index]


def _expert_rows(A: Tensor, index: int, experts: int) -> Tensor:
    return A.reshape(experts, -1, A.shape[-1])[index].mT
