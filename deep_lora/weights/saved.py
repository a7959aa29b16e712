"""What an adapted layer saves beside its parameters, and what it demands of a state that is loaded.

Two adapters with the same tensors are the same update only if these have the same scales and start. All follow from the
configuration, so they are saved in `deep_lora_settings` and compared when tensors are loaded without it, into an
adapter that already exists.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from deep_lora.config import VARIANTS
from deep_lora.files import BOUND_NAME, AdapterFileError, check_unbounded
from deep_lora.weights.offload import fetched, offloading_hook

SETTINGS = "deep_lora_settings"
_STARTS = {0: "its start not subtracted", 1: "its start subtracted", 2: "its start left out of the cores"}


def settings_of(layer: Any, adapter_name: str) -> Tensor:
    """Return the variant's number, what becomes of the start, and the bits of the scales of cores and of U and V.

    Integers, which no cast rounds. They lie where the cores do, on the meta device too.
    """
    return held_settings(layer, adapter_name).to(layer.deep_lora_core[adapter_name].device)


def held_settings(layer: Any, adapter_name: str) -> Tensor:
    """Return what `settings_of` does, on the CPU."""
    scales = (layer.core_scale[adapter_name], layer.outer_scale[adapter_name])
    start = int(adapter_name in layer.deep_lora_start) + int(layer.differences[adapter_name])
    numbers = [VARIANTS.index(layer.variant[adapter_name]), start]
    bits = struct.unpack("<2q", struct.pack("<2d", *scales))
    return torch.tensor([*numbers, *bits], device="cpu")


def saved_scales(settings: Tensor) -> tuple[float, float]:
    """Return the scale of the cores, and that of U and V, as they were saved.

    Raises:
        AdapterFileError: these are not settings.
    """
    if settings.dtype != torch.int64 or settings.shape != (4,):
        raise AdapterFileError(
            f"`{SETTINGS}` holds {settings.dtype} of shape {tuple(settings.shape)}, expected four integers; "
            "the file was edited or is damaged: save the adapter again, and copy integers when you average states"
        )
    core_scale, outer_scale = struct.unpack("<2d", struct.pack("<2q", *settings[2:].tolist()))
    return core_scale, outer_scale


def check_settings(layer: Any, adapter_name: str, saved: Tensor) -> None:
    """Raise if saved settings are not those of the layer.

    Raises:
        AdapterFileError: the message says how they differ, and what to do.
    """
    own = _described(held_settings(layer, adapter_name))
    theirs = _described(saved)
    if own != theirs:
        raise AdapterFileError(
            f"the adapter {adapter_name!r} of this model has {own}, but what is loaded into it was saved with "
            f"{theirs}, and would give a different update here; load it under another name, or delete the adapter "
            "first and load it with its own configuration"
        )


def _described(settings: Tensor) -> str:
    core_scale, outer_scale = saved_scales(settings)
    variant, start = settings[:2].tolist()
    name = VARIANTS[variant] if 0 <= variant < len(VARIANTS) else f"number {variant}"
    scales = f"cores times {core_scale!r}, U and V times {outer_scale!r}"
    return f"variant {name}, {scales}, {_STARTS.get(start, f'start number {start}')}"


def check_state(layer: Any, state: dict[str, Tensor], prefix: str) -> None:
    """Raise if a state holds something for this layer that would be another update in it, or would be dropped.

    Raises:
        AdapterFileError: the settings differ, or updates were bounded by an earlier version.
        ValueError: other factors are to replace those of a merged adapter.
    """
    bound = f"{prefix}{BOUND_NAME}"
    names = [bound, *(f"{bound}.{adapter_name}" for adapter_name in layer.deep_lora_core)]
    check_unbounded("the adapter", [name for name in names if name in state])
    for adapter_name in layer.deep_lora_core:
        _check_unmerged(layer, adapter_name, state, prefix)
        saved = state.get(f"{prefix}{SETTINGS}.{adapter_name}")
        if saved is not None and not _has_factors(layer, adapter_name, state, prefix):
            continue  # torch refuses other sizes, and PEFT leaves them out where it is asked to
        if saved is not None:
            check_settings(layer, adapter_name, saved)
            continue
        start = f"{prefix}deep_lora_start"  # PEFT adds no name of an adapter to what the model does not hold
        _check_start(layer, adapter_name, state.get(f"{start}.{adapter_name}", state.get(start)))


def check_loaded(layer: Any, adapter_name: str, prefix: str, missing: Collection[str]) -> None:
    """Raise if the tensors that a layer has been given, all but the missing ones, are another update in it.

    Raises:
        AdapterFileError: as `check_state`.
    """
    held = {
        f"{prefix}{part}.{adapter_name}": fetched(getattr(layer, part), adapter_name)
        for part in layer.saved_names
        if adapter_name in getattr(layer, part)
    }
    check_state(layer, {name: tensor for name, tensor in held.items() if name not in missing}, prefix)


def _check_unmerged(layer: Any, adapter_name: str, state: dict[str, Tensor], prefix: str) -> None:
    """Raise if factors are loaded over those that the base weight holds: unmerging would then take off others."""
    if adapter_name not in layer.merged_adapters:
        return
    for name in layer.adapter_layer_names:
        held, saved = fetched(getattr(layer, name), adapter_name), state.get(f"{prefix}{name}.{adapter_name}")
        if saved is not None and not (saved.shape == held.shape and torch.equal(saved.to(held), held)):
            raise ValueError(
                f"the adapter {adapter_name!r} is merged, so what is loaded into it would have no effect, and "
                "unmerging would subtract what was never added; call `unmerge_adapter()` first"
            )


def _has_factors(layer: Any, adapter_name: str, state: dict[str, Tensor], prefix: str) -> bool:
    """Tell whether a state has all factors of an adapter in the sizes of the layer, as far as these are known."""
    for name in layer.adapter_layer_names:
        held, saved = getattr(layer, name)[adapter_name], state.get(f"{prefix}{name}.{adapter_name}")
        if saved is None or (held.numel() > 0 and saved.shape != held.shape):
            return False
    return True


def _check_start(layer: Any, adapter_name: str, saved: Tensor | None) -> None:
    """Raise if an earlier version, which saved no settings, has subtracted another start, but for its rounding."""
    if saved is not None and layer.differences[adapter_name]:
        raise AdapterFileError(
            "what is loaded was saved by an earlier version, whose cores include their start; those of the adapter "
            f"{adapter_name!r} of this model do not; load it under another name, or delete the adapter first and "
            "load it with its own configuration"
        )
    if saved is None or saved.is_meta:
        return
    has_start = adapter_name in layer.deep_lora_start
    own = layer.init_scale[adapter_name] / layer.core_scale[adapter_name] if has_start else None
    if own is None or abs(float(saved) - own) > torch.finfo(torch.bfloat16).eps * own:
        raise AdapterFileError(
            f"what is loaded subtracts a start of {float(saved):g} from its cores, but the adapter {adapter_name!r} of "
            f"this model {'none' if own is None else f'{own:g}'}; load it under another name, or delete the adapter "
            "first and load it with its own configuration"
        )


def prepare_state_(layer: Any, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Check a state and complete it where an earlier version has saved it; a hook of `load_state_dict`."""
    check_state(layer, state, prefix)
    for adapter_name, settings in layer.deep_lora_settings.items():
        state[f"{prefix}{SETTINGS}.{adapter_name}"] = (
            held_settings(layer, adapter_name) if settings.is_meta else settings
        )


def complete_state_(layer: Any, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Save offloaded values, settings that no average has rounded, and a start with the rounding of cores that hold it.

    Whoever loads these cores and their start in float32 has an identity then.
    """
    for name in layer.saved_names:
        container = getattr(layer, name)
        for adapter_name in container if offloading_hook(container) is not None else ():
            key = f"{prefix}{name}.{adapter_name}"
            if key in state:
                state[key] = fetched(container, adapter_name).detach()
    for adapter_name in layer.deep_lora_settings:
        key = f"{prefix}{SETTINGS}.{adapter_name}"
        if key in state:
            state[key] = held_settings(layer, adapter_name).to(state[key].device)
    for adapter_name in layer.deep_lora_start:
        key = f"{prefix}deep_lora_start.{adapter_name}"
        if key in state and not layer.differences[adapter_name]:
            start = state[key]
            state[key] = start.to(layer.deep_lora_core[adapter_name].dtype).to(start.dtype)
