"""Modules that share the weight of the input embedding, where they are trained and saved whole with it."""

from __future__ import annotations

import copy
import re
from typing import Any

from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from peft.utils.other import TrainableTokensWrapper, _set_trainable
from torch import nn

from deep_lora.config import DeepLoraConfig
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.tuner.heads import saved_whole

_WRAPPINGS = re.compile(r"(\.token_adapter)?\.base_layer|\.original_module")


def tied_with_embedding(model: Any) -> list[str]:
    """Return the names, in the base model, of all other modules with the weight of the input embedding.

    None, if the configuration says `tie_word_embeddings=False`.

    PEFT goes by `_tied_weights_keys`, which BART's classifier does not have, and which tie Marian's own embedding to
    one that nothing calls.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    >>> tied_with_embedding(LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)))
    ['lm_head']
    """
    if getattr(getattr(model, "config", None), "tie_word_embeddings", None) is False:
        return []
    try:
        embedding = _of_base(model.get_input_embeddings())
    except (AttributeError, NotImplementedError):  # it is not of transformers, or transformers does not know
        return []
    weight = embedding._parameters.get("weight")
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        base = _of_base(module)
        if weight is not None and base._parameters.get("weight") is weight:
            found[_WRAPPINGS.sub("", name)] = base
    return sorted(name for name, base in found.items() if base is not embedding)


def _of_base(held: nn.Module) -> nn.Module:
    while isinstance(held, DeepLoraLayer | AuxiliaryTrainingWrapper):
        held = held.get_base_layer() if isinstance(held, DeepLoraLayer) else held.original_module
    return held


def saves_any(config: DeepLoraConfig, names: list[str]) -> bool:
    """Tell whether one of these modules is saved whole, or lies in one that is."""
    return any(saved_whole(config.modules_to_save, name) for name in names)


def save_with_embedding_(config: DeepLoraConfig, model: nn.Module, embedding: str, tied: list[str]) -> None:
    """Save the embedding whole in the place of all that is tied to it, and note what is.

    Raises:
        ValueError: something that is tied lies in a larger module that is saved whole.
    """
    together = {embedding, *tied}
    for name in sorted(together):
        outer = saved_whole(config.modules_to_save, name)
        if outer not in (None, name):
            raise ValueError(
                f"`ensure_weight_tying` cannot tie {name!r}, which lies in {outer!r}, a module that is trained and "
                "saved whole; name the embedding alone in `modules_to_save`, or leave `ensure_weight_tying` out"
            )
    names = {_WRAPPINGS.sub("", name) for name, _ in model.named_modules(remove_duplicate=False)}
    whole = [embedding]
    for wanted in config.modules_to_save or ():
        found = {name for name in names if name.endswith(wanted)}
        whole += [wanted] if found.isdisjoint(together) else sorted(found - together)
    config.modules_to_save = list(dict.fromkeys(whole))
    config.modules_to_tie = set(tied)


def share_saved_whole_(model: Any, config: DeepLoraConfig | None, adapter_name: str) -> None:
    """Let what is tied to the embedding, and saved whole with it, be of its own kind and share the embedding's weight.

    PEFT puts a linear layer without a bias in the place of each; and loading may part them.
    """
    for name in getattr(config, "modules_to_tie", None) or ():
        weight = model.get_input_embeddings().modules_to_save[adapter_name].weight
        wrapper = model.get_submodule(name)
        if not isinstance(wrapper, ModulesToSaveWrapper) or adapter_name not in wrapper.modules_to_save:
            continue
        whole, original = wrapper.modules_to_save[adapter_name], wrapper.original_module
        if type(whole) is not type(original) or whole.state_dict().keys() != original.state_dict().keys():
            whole = copy.deepcopy(original, {id(original.weight): weight})
            whole.requires_grad_(weight.requires_grad)
            wrapper.modules_to_save[adapter_name] = whole
        whole.weight = weight


def share_rows_(model: Any, config: DeepLoraConfig, adapter_name: str) -> None:
    """Let the rows of the embedding that are trained be those of all that is tied to it, and as active as there.

    PEFT leaves out what `tied_with_embedding` finds beyond it, and activates the rest with every adapter that is added.
    """
    if config.trainable_token_indices is None or not hasattr(model, "get_input_embeddings"):
        return
    source = model.get_input_embeddings()
    if not isinstance(source, TrainableTokensWrapper) or adapter_name not in source._adapters:
        return
    with_rows = {id(part.original_module) for part in model.modules() if _has_rows(part, adapter_name)}
    tied = {name: model.get_submodule(name) for name in tied_with_embedding(model)}
    _set_trainable(
        model,
        adapter_name,
        [name for name, module in tied.items() if id(_of_base(module)) not in with_rows],
        config.inference_mode,
        wrapper_cls=TrainableTokensWrapper,
        token_indices=source.token_adapter.token_indices[adapter_name],
        tied_adapter=source.token_adapter,
    )
    for part in model.modules():
        if _has_rows(part, adapter_name) and part.token_adapter.tied_adapter is source.token_adapter:
            part.set_adapter(source.active_adapters, inference_mode=config.inference_mode)


def _has_rows(module: Any, adapter_name: str) -> bool:
    return isinstance(module, TrainableTokensWrapper) and adapter_name in module._adapters
