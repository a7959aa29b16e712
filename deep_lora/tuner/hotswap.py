"""PEFT's hotswap for Deep LoRA: another saved adapter in the tensors of one that is there, also in a compiled model.

PEFT's functions in `peft.utils.hotswap` know LoRA only; two of them are wrapped and pass everything else on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft.utils import hotswap
from torch import Tensor, nn

from deep_lora.config import PEFT_TYPE, DeepLoraConfig
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.tuner.wrapping import wrap
from deep_lora.weights.saved import settings_of
from deep_lora.weights.start import stored_scale, stores_differences

_COMPARED = ["variant", "subtract_start", "depth", "depth_pattern", "deep_lora_dropout"]
Tensors = dict[str, Tensor]


def install() -> None:
    """Wrap PEFT's functions; a second call (reload) changes nothing."""
    hotswap.CONFIG_KEYS_TO_CHECK[PEFT_TYPE] = _COMPARED
    wrap(hotswap, "hotswap_adapter_from_state_dict", _with_swap)
    wrap(hotswap, "prepare_model_for_compiled_hotswap", _with_padding)


def _with_swap(original: Callable[..., Any]) -> Callable[..., Any]:
    def hotswap_adapter_from_state_dict(
        model: nn.Module, state_dict: Tensors, adapter_name: str, config: Any, parameter_prefix: str = "lora_"
    ) -> Any:
        if not isinstance(config, DeepLoraConfig):
            return original(model, state_dict, adapter_name, config, parameter_prefix)
        return swap_(model, state_dict, adapter_name, config)

    return hotswap_adapter_from_state_dict


def _with_padding(original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare_model_for_compiled_hotswap(
        model: nn.Module, *, target_rank: int | None = None, config: Any = None, check_compiled: str = "error"
    ) -> Any:
        layers = adapted_layers(model)
        if not layers:
            return original(model, target_rank=target_rank, config=config, check_compiled=check_compiled)
        if _is_compiled(model) and check_compiled == "error":
            raise ValueError("Call prepare_model_for_compiled_hotswap *before* compiling the model")
        given = config if isinstance(config, dict) else dict.fromkeys(_names(layers), config)
        if target_rank is not None:
            pad_(layers, target_rank, {**getattr(model, "peft_config", {}), **{k: c for k, c in given.items() if c}})

    return prepare_model_for_compiled_hotswap


def _names(layers: dict[str, DeepLoraLayer]) -> set[str]:
    return {name for layer in layers.values() for name in layer.deep_lora_U}


def _is_compiled(model: Any) -> bool:
    return hasattr(model, "_orig_mod") or bool(getattr(model, "_compiled_call_impl", False))


@torch.no_grad()
def swap_(model: nn.Module, state_dict: Tensors, adapter_name: str, config: DeepLoraConfig) -> None:
    """Write another adapter into the tensors of one, padded to its rank; modules that it lacks get no update.

    The scales that the layers hold as plain numbers stay, and the cores make up for it, so that nothing is compiled
    again.

    Args:
        model: holds the adapter, compiled or not.
        state_dict: the other adapter's tensors by their names in the model.
        adapter_name: the one that is replaced.
        config: the other adapter's.

    Raises:
        ValueError: the adapter is merged, offloaded, or of another depth or start, or of a smaller rank in a compiled
            model. Nothing was changed.
        RuntimeError: the state has names that the model has not.
    """
    inner = getattr(model, "_orig_mod", model)
    layers = {name: layer for name, layer in adapted_layers(inner, adapter_name).items()}
    known = {f"{name}.{part}.{adapter_name}" for name in layers for part in DeepLoraLayer.saved_names}
    unexpected = sorted(key for key in state_dict if key not in known)
    if unexpected:
        raise RuntimeError(f"Hot swapping the adapter did not succeed, unexpected keys found: {', '.join(unexpected)}.")
    new: dict[str, Tensors] = {name: _parts(name, state_dict, adapter_name) for name in layers}
    for name, layer in layers.items():
        _check(name, layer, adapter_name, new[name], compiled=_is_compiled(model))
    for name, layer in layers.items():
        if adapter_name in layer.tied_to:
            continue
        if new[name]:
            _write(layer, adapter_name, new[name], config)
        else:
            layer.deep_lora_U[adapter_name].zero_()
    for layer in layers.values():
        _follow_source(layer, adapter_name)


@torch.no_grad()
def pad_(layers: dict[str, DeepLoraLayer], rank: int, configs: dict[str, DeepLoraConfig]) -> None:
    """Give all adapters one larger rank with the same update, and the configurations that rank.

    Raises:
        ValueError: an adapter has a larger rank already.
    """
    large = [name for name, layer in layers.items() if any(r > rank for r in layer.r.values())]
    if large:
        raise ValueError(
            f"`target_rank` {rank} is smaller than the rank of {large[0]}; pass the largest rank of all adapters that "
            "will be swapped in"
        )
    pairs = [(layer, name) for layer in layers.values() for name in layer.deep_lora_U]
    for layer, adapter_name in pairs:
        if adapter_name not in layer.tied_to:
            _pad(layer, adapter_name, rank, configs[adapter_name])
    for layer, adapter_name in pairs:
        _follow_source(layer, adapter_name)
    for config in configs.values():
        config.r, config.rank_pattern = rank, dict.fromkeys(config.rank_pattern, rank)


def _pad(layer: DeepLoraLayer, adapter_name: str, rank: int, config: DeepLoraConfig) -> None:
    own = {part: getattr(layer, part)[adapter_name] for part in layer.adapter_layer_names}
    if adapter_name in layer.deep_lora_start:
        own["deep_lora_start"] = layer.deep_lora_start[adapter_name]
    scale = layer._core_scale(config, rank, len(own["deep_lora_core"]))
    for part, tensor in _fitted(own, rank, layer.core_scale[adapter_name] / scale, 1.0).items():
        getattr(layer, part)[adapter_name].data = tensor
    layer.r[adapter_name], layer.core_scale[adapter_name] = rank, scale
    layer.deep_lora_settings[adapter_name] = settings_of(layer, adapter_name)


def _follow_source(layer: DeepLoraLayer, adapter_name: str) -> None:
    """Give a tied layer what its source has by now."""
    source = layer.tied_to.get(adapter_name)
    if source is None:
        return
    if layer.r[adapter_name] == source.r[adapter_name]:
        if adapter_name in layer.deep_lora_start:
            layer.deep_lora_start[adapter_name].copy_(source.deep_lora_start[adapter_name])
        return
    layer._share_parameters(adapter_name)
    layer.r[adapter_name], layer.core_scale[adapter_name] = source.r[adapter_name], source.core_scale[adapter_name]
    layer.deep_lora_settings[adapter_name] = settings_of(layer, adapter_name)


def _parts(name: str, state_dict: Tensors, adapter_name: str) -> Tensors:
    found = {part: state_dict.get(f"{name}.{part}.{adapter_name}") for part in DeepLoraLayer.saved_names}
    return {part: tensor for part, tensor in found.items() if tensor is not None}


def _check(name: str, layer: DeepLoraLayer, adapter_name: str, new: Tensors, *, compiled: bool) -> None:
    if adapter_name in layer.merged_adapters:
        raise ValueError(
            f"the adapter {adapter_name!r} is merged, so it cannot be swapped; call `unmerge_adapter` first"
        )
    core = layer.deep_lora_core[adapter_name]
    if core.is_meta:
        raise ValueError(
            f"the adapter {adapter_name!r} is offloaded, so it cannot be swapped; load the other beside it"
        )
    if not new:
        return
    theirs = new.get("deep_lora_core", core[:0])
    starts = ("deep_lora_start" in new, adapter_name in layer.deep_lora_start)
    if len(theirs) != len(core) or starts[0] != starts[1]:
        raise ValueError(
            f"the adapters differ in {name}: the new one has {len(theirs)} cores and {'a' if starts[0] else 'no'} "
            f"start, the one in the model {len(core)} cores and {'a' if starts[1] else 'no'} start; load it under "
            "another name"
        )
    if compiled and theirs.shape[-1] > core.shape[-1]:
        raise ValueError(
            f"the new adapter has rank {theirs.shape[-1]} in {name}, the compiled model {core.shape[-1]}; call "
            "`prepare_model_for_compiled_hotswap` with the largest rank before the model is compiled"
        )


def _write(layer: DeepLoraLayer, adapter_name: str, new: Tensors, config: DeepLoraConfig) -> None:
    rank = new["deep_lora_core"].shape[-1]
    scale = layer._core_scale(config, rank, len(new["deep_lora_core"]))
    outer = stored_scale(config) / layer.outer_scale[adapter_name]
    parts = {part: tensor for part, tensor in new.items() if part != "deep_lora_settings"}
    parts["deep_lora_core"] = _stored_as(layer.differences[adapter_name], parts, stores_differences(config))
    if rank > layer.r[adapter_name]:
        layer.r[adapter_name], layer.core_scale[adapter_name] = rank, scale
        layer.deep_lora_settings[adapter_name] = settings_of(layer, adapter_name)
    fitted = _fitted(parts, layer.r[adapter_name], scale / layer.core_scale[adapter_name], outer)
    for part, tensor in fitted.items():
        old = getattr(layer, part)[adapter_name]
        if old.shape == tensor.shape:
            old.data.copy_(tensor)
        else:
            old.data = tensor.to(old)


def _stored_as(differences: bool, parts: Tensors, were_differences: bool) -> Tensor:
    """Return the cores as the layer holds them, which may be without the start that an earlier format has in them."""
    core = parts["deep_lora_core"].clone()
    if differences != were_differences:
        start = parts["deep_lora_start"].to(core.dtype)
        core.diagonal(dim1=-2, dim2=-1).add_(start, alpha=-1 if differences else 1)
    return core


def _fitted(tensors: Tensors, rank: int, core_ratio: float, outer_ratio: float) -> Tensors:
    """Pad U, the cores and V with zeros to a rank, and scale what is stored."""
    missing = rank - tensors["deep_lora_core"].shape[-1]
    factors = {part: F.pad(tensors[part], (0, missing)) * outer_ratio for part in ("deep_lora_U", "deep_lora_V")}
    core = F.pad(tensors["deep_lora_core"], (0, missing, 0, missing)) * core_ratio
    start = {"deep_lora_start": tensors["deep_lora_start"] * core_ratio} if "deep_lora_start" in tensors else {}
    return {**factors, "deep_lora_core": core, **start}
