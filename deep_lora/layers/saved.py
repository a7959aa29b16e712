"""What an adapted layer saves and loads beside its parameters: two hooks of `state_dict` and `load_state_dict`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deep_lora.files import BOUND_NAME, check_unbounded
from deep_lora.layers.offload import fetched, offloading_hook


def complete_state_(layer: Any, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Save offloaded values, and the start with the rounding of the cores, for whoever loads both in float32."""
    for name in layer.saved_names:
        container = getattr(layer, name)
        for adapter_name in container if offloading_hook(container) is not None else ():
            key = f"{prefix}{name}.{adapter_name}"
            if key in state:
                state[key] = fetched(container, adapter_name).detach()
    for adapter_name in layer.deep_lora_start:
        key = f"{prefix}deep_lora_start.{adapter_name}"
        if key in state:
            start = state[key]
            state[key] = start.to(layer.deep_lora_core[adapter_name].dtype).to(start.dtype)


def check_state(layer: Any, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Refuse the bound of an earlier version, which `strict=False` would drop."""
    name = f"{prefix}{BOUND_NAME}"
    names = [name, *(f"{name}.{adapter_name}" for adapter_name in layer.deep_lora_core)]
    check_unbounded("the adapter", [name for name in names if name in state])
