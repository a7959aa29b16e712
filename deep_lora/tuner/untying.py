"""Weights that several modules share: merging the update of one of them would change the others."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.layers.fused import is_plain


def part_shared_weights_(model: nn.Module) -> None:
    """Give adapted layers a copy of a weight that a module without their update holds too, such as a tied embedding.

    Layers that share one adapter go on sharing the weight. Weights that are quantized, sharded or offloaded stay.

    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> base = nn.ModuleDict({"embedding": nn.Embedding(4, 2), "head": nn.Linear(2, 4)})
    >>> base["head"].weight = base["embedding"].weight
    >>> model = get_peft_model(base, DeepLoraConfig(r=2, target_modules=["head"]))
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     part_shared_weights_(model)
    >>> base["head"].base_layer.weight is base["embedding"].weight
    False
    """
    holders: dict[int, set[int]] = {}
    for module in model.modules():
        for weight in module._parameters.values():
            holders.setdefault(id(weight), set()).add(id(module))
    parted = []
    for (weight_id, _), layers in _groups(model).items():
        if holders[weight_id] <= {id(layer.get_base_layer()) for _, layer in layers}:
            continue
        first: Any = _own_weight(layers[0][1])
        copied = nn.Parameter(first.detach().clone(), requires_grad=first.requires_grad)
        for name, layer in layers:
            layer.get_base_layer()._parameters[layer.parameter_name] = copied
            parted.append(name)
    if parted:
        warnings.warn(
            f"merging gives {', '.join(parted)} a weight of its own: it was shared with a module that has another "
            "update or none, and would have changed that too; a model saved afterwards is larger, and its config "
            "should say `tie_word_embeddings=False`",
            stacklevel=2,
        )


def _groups(model: nn.Module) -> dict[tuple[int, int], list[tuple[str, DeepLoraLayer]]]:
    """Gather the adapted layers, with their names, that share a weight and an adapter."""
    groups: dict[tuple[int, int], list[tuple[str, DeepLoraLayer]]] = {}
    for name, layer in adapted_layers(model).items():
        weight = _own_weight(layer)
        if weight is not None:
            groups.setdefault((id(weight), id(_source(layer))), []).append((name, layer))
    return groups


def _own_weight(layer: Any) -> nn.Parameter | None:
    """Return the weight that an update is merged into, if it is a parameter that can be copied."""
    weight = layer.get_base_layer()._parameters.get(layer.parameter_name)
    copyable = weight is not None and layer.quantization_backend is None and weight.is_floating_point()
    return weight if copyable and is_plain(weight) and not weight.is_meta else None


def _source(layer: DeepLoraLayer) -> DeepLoraLayer:
    """Return the layer whose parameters all adapters of this one share, or itself."""
    sources = [layer.tied_to.get(name, layer) for name in layer.deep_lora_U]
    return sources[0] if sources and all(source is sources[0] for source in sources) else layer
