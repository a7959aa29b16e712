"""What becomes of the fields of `LoraConfig`: carried over, called otherwise, without a counterpart, or refused."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from peft import LoraConfig, PeftType

LORA_BIASES = {"none": "none", "all": "all", "deep_lora_only": "lora_only"}  # of DeepLoraConfig and of LoraConfig
_NO_ALPHA = "there is no alpha, the scale follows from the rank: leave it out"
_ADVICE = {
    "lora_alpha": _NO_ALPHA,
    "alpha_pattern": _NO_ALPHA,
    "use_rslora": _NO_ALPHA,
    "lora_dropout": "use `deep_lora_dropout`",
    "init_lora_weights": "leave it out; `initialize_subspaces_` takes subspaces from gradients",
}
_UNSUPPORTED = "Deep LoRA does not support it: leave it out"
# Without influence on a Deep LoRA adapter; the last two are written by every config for itself.
_DROPPED = {"lora_alpha", "alpha_pattern", "use_rslora", "peft_type", "peft_version"}


class WithoutLoraFields:
    """Base of a config dataclass that says what to do when it is given a field that only `LoraConfig` has."""

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        """Make the object that `__init__` fills.

        Raises:
            TypeError: a field of the installed `LoraConfig` was passed that this class lacks. It begins with Python's
                own words, by which PEFT knows that a field of a saved configuration can be dropped.
        """
        own = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        foreign = [field.name for field in dataclasses.fields(LoraConfig) if field.name in settings.keys() - own]
        if foreign:
            advice = " and ".join(f"{name!r} ({_ADVICE.get(name, _UNSUPPORTED)})" for name in foreign)
            raise TypeError(f"{cls.__name__} got an unexpected keyword argument {advice}")
        return super().__new__(cls)


def fields_from_lora(lora_config: LoraConfig, own: set[str]) -> dict[str, Any]:
    """Translate a `LoraConfig` into the fields of a `DeepLoraConfig`, whose names are `own`.

    Raises:
        TypeError: it is not a `LoraConfig`, or one of another method.
        ValueError: a field changes what LoRA does and has no counterpart.
    """
    if not isinstance(lora_config, LoraConfig) or lora_config.peft_type != PeftType.LORA:
        raise TypeError(
            f"`from_lora` needs a LoraConfig, got a {type(lora_config).__name__}; make the DeepLoraConfig by its fields"
        )
    usual = type(lora_config)()
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(lora_config):
        name, value = field.name, copy.deepcopy(getattr(lora_config, field.name))
        if name in _TRANSLATED:
            kept |= _TRANSLATED[name](value)
        elif name in own - _DROPPED:
            kept[name] = value
        elif name not in _DROPPED and value != getattr(usual, name):
            raise ValueError(f"`{name}={value!r}` of the LoraConfig has no counterpart in Deep LoRA; unset it first")
    return kept


def _bias(value: str) -> dict[str, Any]:
    return {"bias": {lora: deep for deep, lora in LORA_BIASES.items()}.get(value, value)}


def _start(value: bool | str) -> dict[str, Any]:
    """Both of LoRA's plain starts give no update, as ours does; False draws a random one in both."""
    if value not in (True, False, "gaussian"):
        raise ValueError(
            f"`init_lora_weights={value!r}` of the LoraConfig has no counterpart in Deep LoRA; set it to True, and see "
            "`initialize_subspaces_` for a start from gradients"
        )
    return {"init_weights": bool(value)}


_TRANSLATED: dict[str, Any] = {
    "bias": _bias,
    "lora_dropout": lambda value: {"deep_lora_dropout": value},
    "init_lora_weights": _start,
}
