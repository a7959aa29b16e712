"""What is due when the tensors of an adapter have been replaced by other objects, as loaders and casts do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from peft.functional import delete_adapter
from peft.utils import ModulesToSaveWrapper
from torch import nn

from deep_lora.files import AdapterFileError
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.tuner.tying import share_saved_whole_
from deep_lora.weights.offload import settle_all_
from deep_lora.weights.saved import check_loaded


def check_replaced(model: Any, adapter_name: str, missing: Collection[str]) -> None:
    """Check an adapter whose tensors were replaced without `load_state_dict`, as transformers replaces them.

    Args:
        model: of transformers, holds the adapter; an adapter that is refused is taken out.
        adapter_name: the adapter.
        missing: names of tensors in the model that were not replaced.

    Raises:
        AdapterFileError: what was loaded would be another update in this adapter.
    """
    try:
        for name, layer in adapted_layers(model, adapter_name).items():
            check_loaded(layer, adapter_name, f"{name}.", missing)
    except AdapterFileError:
        _take_out(model, adapter_name)
        raise
    keep_as_configured_(model, adapter_name)


def keep_as_configured_(model: nn.Module, adapter_name: str) -> None:
    """Share again what is tied, and freeze again what is frozen: new parameters are trainable, and apart."""
    for layer in adapted_layers(model).values():
        if adapter_name in layer.tied_to:
            layer._share_parameters(adapter_name)
        if adapter_name in layer.deep_lora_U:
            layer._freeze_non_trainable_peft_weights(adapter_name)
    share_saved_whole_(model, getattr(model, "peft_config", {}).get(adapter_name), adapter_name)


def settle_saved_whole_(model: nn.Module, adapter_name: str) -> None:
    """Load an adapter's copies of modules that are saved whole permanently: a gradient of what is offloaded is lost."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            settle_all_(module.modules_to_save[adapter_name])


def _take_out(model: Any, adapter_name: str) -> None:
    """Do what `delete_adapter` of transformers does, which wants a newer PEFT than its `load_adapter`."""
    delete_adapter(model, adapter_name=adapter_name, prefix="deep_lora_", layer_cls=DeepLoraLayer)
    del model.peft_config[adapter_name]
    if not model.peft_config:
        del model.peft_config
        model._hf_peft_config_loaded = False
