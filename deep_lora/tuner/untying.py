"""Weights that several modules share: merging the update of one of them would change the others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.layers.fused import is_plain


def part_shared_weights_(model: nn.Module) -> None:
    """Part all shared weights if one of them is that of an adapted layer and of a module without its update or rows.

    Such as a tied embedding. All, and in the configuration too: a model of which a part is still tied would not come
    back from a folder. Layers that share one adapter go on sharing the weight where nothing else has it. Weights that
    are quantized, sharded or offloaded stay.

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
    holders = _holders(model)
    parted = [
        name
        for (weight_id, _), layers in _groups(model).items()
        if not {id(module) for module, _ in holders[weight_id]} <= {id(base) for _, base in layers}
        for name, _ in layers
    ]
    if parted:
        _part_all_(model)
        warnings.warn(
            f"merging gives {', '.join(parted)} a weight of its own: it was shared with a module that has another "
            "update or none, and would have changed that too; all tied weights are untied and the config says "
            "`tie_word_embeddings=False` from now on, so a model saved afterwards is larger",
            stacklevel=2,
        )


def _part_all_(model: nn.Module) -> None:
    for places in _holders(model).values():
        for module, name in places[1:]:
            weight = module._parameters[name]
            if weight is not None and _is_copyable(weight):
                module._parameters[name] = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and getattr(part.config, "tie_word_embeddings", False):
            part.config.tie_word_embeddings = False


@contextmanager
def ties_as_configured(model: Any) -> Iterator[None]:
    """Let the configuration of a model say what is tied in it once its adapters are gone, so that it can be saved.

    A module that was trained whole leaves the others that it was tied to; then all are parted. PEFT compares the input
    with the output embeddings alone: where the output is tied to the decoder's, beside an encoder with its own, it
    would unset `tie_word_embeddings`, and a saved model have no weight for its output.
    """
    config: Any = getattr(model, "config", None)
    before = _ties(model)
    tied = bool(getattr(config, "tie_word_embeddings", False)) and _output_is_tied_elsewhere(model)
    with warnings.catch_warnings():
        if tied:
            warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        yield
    left, still = _ties(model), bool(getattr(config, "tie_word_embeddings", False))
    if left < before and (left or still):
        _part_all_(model)
        warnings.warn(
            "a module that was trained whole has a weight of its own now, which was shared before; all tied weights "
            "are parted and the config says `tie_word_embeddings=False` from now on, so a model saved afterwards is "
            "larger",
            stacklevel=2,
        )
    elif tied and _output_is_tied_elsewhere(model):
        config.tie_word_embeddings = True


def _ties(model: nn.Module) -> int:
    """Count the places of parameters that are held in another one too."""
    return sum(len(places) - 1 for places in _holders(model).values())


def _output_is_tied_elsewhere(model: Any) -> bool:
    if not isinstance(model, PreTrainedModel) or (outputs := model.get_output_embeddings()) is None:
        return False
    try:
        inputs = model.get_input_embeddings()
    except NotImplementedError:  # transformers does not know them
        return False
    weights = [
        (part.get_base_layer() if isinstance(part, DeepLoraLayer) else part)._parameters.get("weight")
        for part in (outputs, inputs)
    ]
    return weights[0] is not weights[1] and len(_holders(model).get(id(weights[0]), ())) > 1


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Gather the modules, with the names there, that hold each parameter of the base model."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in {id(module): module for module in _modules_of_base(model)}.values():
        for name, weight in module._parameters.items():
            if weight is not None:
                found.setdefault(id(weight), []).append((module, name))
    return found


def _modules_of_base(part: nn.Module) -> Iterator[nn.Module]:
    """Walk through a model, but not into what PEFT has put into it."""
    if isinstance(part, DeepLoraLayer):
        children = [part.get_base_layer()]
    elif isinstance(part, AuxiliaryTrainingWrapper):
        children = [part.original_module]
    else:
        yield part
        children = list(part.children())
    for child in children:
        yield from _modules_of_base(child)


def _groups(model: nn.Module) -> dict[tuple[int, int], list[tuple[str, nn.Module]]]:
    """Gather the base layers, by the names of what adapts them or trains rows of them, that share a weight and that."""
    groups: dict[tuple[int, int], list[tuple[str, nn.Module]]] = {}
    for name, layer in adapted_layers(model).items():
        weight = _own_weight(layer)
        if weight is not None:
            groups.setdefault((id(weight), id(_source(layer))), []).append((name, layer.get_base_layer()))
    for name, wrapper in model.named_modules():
        if isinstance(wrapper, TrainableTokensWrapper):
            rows, base = wrapper.token_adapter, wrapper.original_module
            weight = base._parameters.get("weight")
            if weight is not None and _is_copyable(weight):
                groups.setdefault((id(weight), id(rows.tied_adapter or rows)), []).append((name, base))
    return groups


def _own_weight(layer: Any) -> nn.Parameter | None:
    """Return the weight that an update is merged into, if it is a parameter that can be copied."""
    weight = layer.get_base_layer()._parameters.get(layer.parameter_name)
    copyable = weight is not None and layer.quantization_backend is None and _is_copyable(weight)
    return weight if copyable else None


def _is_copyable(weight: nn.Parameter) -> bool:
    return weight.is_floating_point() and is_plain(weight) and not weight.is_meta


def _source(layer: DeepLoraLayer) -> DeepLoraLayer:
    """Return the layer whose parameters all adapters of this one share, or itself."""
    sources = [layer.tied_to.get(name, layer) for name in layer.deep_lora_U]
    return sources[0] if sources and all(source is sources[0] for source in sources) else layer
