"""Which adapters can be given subspaces, and whether that would cost them what they have learned."""

from __future__ import annotations

from torch import nn

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers


def layers_to_initialize(model: nn.Module, adapter_name: str) -> dict[str, DeepLoraLayer]:
    """Return the compressed layers with an adapter of that name that holds tensors of its own, by their names.

    Raises:
        ValueError: if there is no such adapter, it is not compressed, or its U and V cannot be set: it is merged, or on
            the meta device.
    """
    layers = {
        name: layer
        for name, layer in adapted_layers(model, adapter_name).items()
        # a tied head is set through the layer whose parameters it shares
        if layer.variant[adapter_name] == "compressed" and adapter_name not in layer.tied_to
    }
    if not layers:
        raise ValueError(
            f"adapter {adapter_name!r} is not compressed, so it has no subspaces to set; make one with "
            "`get_peft_model(model, DeepLoraConfig(variant='compressed'))`"
        )
    merged = [name for name, layer in layers.items() if adapter_name in layer.merged_adapters]
    if merged:
        raise ValueError(
            f"adapter {adapter_name!r} is merged in {', '.join(merged)}; call `unmerge_adapter()` before its U and V "
            "are set"
        )
    on_meta = [name for name, layer in layers.items() if layer.deep_lora_U[adapter_name].is_meta]
    if on_meta:
        raise ValueError(f"these adapters are on the meta device: {', '.join(on_meta)}; load or materialize them first")
    return layers


def trained_modules(model: nn.Module, adapter_name: str) -> str:
    """Say how many of the modules with a compressed adapter of that name have left their start; "" for none."""
    layers = [layer for layer in adapted_layers(model).values() if layer.variant.get(adapter_name) == "compressed"]
    trained = sum(not layer.at_start(adapter_name) for layer in layers)
    return f"{trained} of {len(layers)} modules have left their start" if trained else ""
