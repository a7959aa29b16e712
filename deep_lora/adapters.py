"""Adapters in another precision."""

from __future__ import annotations

import torch
from torch import nn

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.subspaces.compressed_layers import adapter_names


@torch.no_grad()
def cast_adapter_(model: nn.Module, dtype: torch.dtype = torch.float32, adapter_name: str = "default") -> None:
    """Give U, the cores and V of an adapter another precision, in place.

    Trainers that cast what is trained to bfloat16 (TRL does, on quantised weights) leave cores which steps of a usual
    rate may not move: a diagonal that starts at 1 moves by 0.004 or not at all. Call this between the making of such a
    trainer and `train()`. Cores that are still as they started get their start in full, so that the adapter remains an
    identity; a trained adapter keeps the rounding that it has. The parameters remain the same objects.

    Args:
        model: holds the adapter.
        dtype: a real floating point type of at least 16 bits.
        adapter_name: the adapter to cast.

    Raises:
        ValueError: if the model has no such adapter, or the dtype is another.

    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(6, 5)), DeepLoraConfig(r=2, target_modules=["0"])).bfloat16()
    >>> cast_adapter_(model)
    >>> {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    {torch.float32}
    """
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise ValueError(f"`dtype` got {dtype}; it must be float32, bfloat16, float16 or float64")
    if adapter_name not in adapter_names(model):
        raise ValueError(
            f"the model has no Deep LoRA adapter called {adapter_name!r} (adapters: {adapter_names(model)})"
        )
    for layer in model.modules():
        if not isinstance(layer, DeepLoraLayer) or adapter_name not in layer.deep_lora_core:
            continue
        if adapter_name in layer.lenders:
            continue  # a tied head holds the parameters of its lender
        fresh = adapter_name in layer.deep_lora_start and layer.at_start(adapter_name)
        for name in layer.adapter_layer_names:
            parameter = getattr(layer, name)[adapter_name]
            parameter.data = parameter.data.to(dtype)
        if fresh:
            diagonals = layer.deep_lora_core[adapter_name].diagonal(dim1=-2, dim2=-1)
            diagonals.copy_(layer.deep_lora_start[adapter_name])
