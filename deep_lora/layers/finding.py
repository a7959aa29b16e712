"""Find the adapted layers of a model."""

from __future__ import annotations

from torch import nn

from deep_lora.layers.base import DeepLoraLayer


def adapted_layers(model: nn.Module, adapter_name: str | None = None) -> dict[str, DeepLoraLayer]:
    """Return the Deep LoRA layers of a model by their names in it, or those that hold one adapter.

    Args:
        model: a PEFT model, or any module.
        adapter_name: the adapter; None takes the layers of all adapters, of which there may be none.

    Raises:
        ValueError: if no layer holds the adapter that was named.

    >>> adapted_layers(nn.Linear(2, 2))
    {}
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, DeepLoraLayer)}
    if adapter_name is None:
        return found
    own = {name: layer for name, layer in found.items() if adapter_name in layer.deep_lora_U}
    if not own:
        raise ValueError(
            f"the model has no Deep LoRA adapter called {adapter_name!r} (adapters: {adapter_names(model)}); make one "
            "with `get_peft_model(model, DeepLoraConfig(...))`"
        )
    return own


def shared_places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return the holders and names of every module that several hold, or one under several names, by its `id`.

    >>> layer = nn.Linear(2, 2)
    >>> [[name for _, name in places] for places in shared_places(nn.Sequential(layer, nn.ReLU(), layer)).values()]
    [['0', '2']]
    """
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for holder in model.modules():
        for name, child in holder._modules.items():
            if child is not None:
                found.setdefault(id(child), []).append((holder, name))
    return {key: places for key, places in found.items() if len(places) > 1}


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of all Deep LoRA adapters in the model, sorted.

    >>> adapter_names(nn.Linear(2, 2))
    []
    """
    return sorted({name for layer in adapted_layers(model).values() for name in layer.deep_lora_U})
