"""Which adapters can be given subspaces, and whether that would cost them what they have learned."""

from __future__ import annotations

from torch import nn

from deep_lora.layers.base import DeepLoraLayer


def adapter_names(model: nn.Module) -> list[str]:
    """The names of all adapters of Deep LoRA in the model, sorted.

    >>> adapter_names(nn.Linear(2, 2))
    []
    """
    layers = (module for module in model.modules() if isinstance(module, DeepLoraLayer))
    return sorted({name for layer in layers for name in layer.deep_lora_U})


def layers_to_initialize(model: nn.Module, adapter_name: str) -> dict[str, DeepLoraLayer]:
    """The compressed layers with an adapter of that name which holds tensors of its own, by their names in the model.

    Raises:
        ValueError: if there is none, or U and V cannot be set: the adapter is merged, or on the meta device.
    """
    layers: dict[str, DeepLoraLayer] = {}
    for name, module in model.named_modules():
        if isinstance(module, DeepLoraLayer) and adapter_name in module.deep_lora_U:
            borrowed = adapter_name in module.lenders  # a tied head is set through the embedding it borrows from
            if module.variant[adapter_name] == "compressed" and not borrowed:
                layers[name] = module
    if not layers:
        present = adapter_names(model)
        raise ValueError(
            f"the model has no compressed Deep LoRA adapter called {adapter_name!r} (adapters: {present}); make "
            "one with `get_peft_model(model, DeepLoraConfig(variant='compressed'))`"
        )
    merged = [name for name, layer in layers.items() if adapter_name in layer.merged_adapters]
    if merged:
        raise ValueError(
            f"adapter {adapter_name!r} is merged in {', '.join(merged)}; call `unmerge_adapter()` before its U and V "
            "are set"
        )
    on_meta = [name for name, layer in layers.items() if layer.deep_lora_U[adapter_name].is_meta]
    if on_meta:
        raise ValueError(f"these adapters are on the meta device: {', '.join(on_meta)}; load or materialise them first")
    return layers


def trained_modules(model: nn.Module, adapter_name: str) -> str:
    """How many of the modules with a compressed adapter of that name have left their start, in words; "" for none."""
    layers = [
        module
        for module in model.modules()
        if isinstance(module, DeepLoraLayer) and module.variant.get(adapter_name) == "compressed"
    ]
    trained = sum(not layer.at_start(adapter_name) for layer in layers)
    return f"{trained} of {len(layers)} modules have left their start" if trained else ""
