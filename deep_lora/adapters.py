"""Adapters in another precision, or at another strength for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deep_lora.layers.finding import adapted_layers


@torch.no_grad()
def cast_adapter_(model: nn.Module, dtype: torch.dtype = torch.float32, adapter_name: str = "default") -> None:
    """Cast U, the cores and V of an adapter to another precision, in place.

    Trainers that cast what is trained to bfloat16 (TRL does, on quantized weights) leave U and V in a precision that
    may lose steps at a usual rate: a number near 1 moves by 0.004 or not at all. Call this after such a trainer is made
    and before `train()`. A fresh adapter remains an identity; a trained one keeps the rounding that it has. The
    parameters remain the same objects.

    Args:
        model: holds the adapter.
        dtype: a real floating point type of at least 16 bits.
        adapter_name: the adapter to cast.

    Raises:
        ValueError: if the model has no such adapter, or `dtype` is not such a type.

    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(6, 5)), DeepLoraConfig(r=2, target_modules=["0"])).bfloat16()
    >>> cast_adapter_(model)
    >>> {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    {torch.float32}
    """
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise ValueError(f"`dtype` must be float32, bfloat16, float16 or float64, got {dtype}")
    for layer in adapted_layers(model, adapter_name).values():
        if adapter_name in layer.tied_to:
            continue  # it shares the parameters of another layer
        held = adapter_name in layer.deep_lora_start and not layer.differences[adapter_name]
        fresh = held and layer.at_start(adapter_name)
        for name in layer.adapter_layer_names:
            parameter = getattr(layer, name)[adapter_name]
            parameter.data = parameter.data.to(dtype)
        if fresh:
            diagonals = layer.deep_lora_core[adapter_name].diagonal(dim1=-2, dim2=-1)
            diagonals.copy_(layer.deep_lora_start[adapter_name])


@contextmanager
def rescale_adapter_scale(model: nn.Module, multiplier: float) -> Iterator[None]:
    """Multiply the update of the active adapters by `multiplier` inside the block.

    PEFT's helper of that name is for LoRA only.

    Raises:
        TypeError: if `multiplier` is not a number.
        ValueError: if the model has no Deep LoRA layer.
    """
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float):
        raise TypeError(f"`multiplier` must be a number, got {type(multiplier).__name__}")
    layers = list(adapted_layers(model).values())
    if not layers:
        raise ValueError("the model has no Deep LoRA layers; add an adapter with `get_peft_model` first")
    before = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scale_layer(multiplier)
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling = scaling
