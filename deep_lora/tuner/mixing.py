"""PEFT's refusals of adapters of Deep LoRA and of another method in one model, with the way to get there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft.mixed_model
from peft import PeftModel

from deep_lora.config import PEFT_TYPE
from deep_lora.tuner.wrapping import wrap


def install() -> None:
    """Wrap the two functions of PEFT that refuse; a second call (reload) changes nothing."""
    wrap(PeftModel, "add_adapter", _explained)
    wrap(peft.mixed_model, "_check_config_compatible", _explained)


def _explained(original: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except ValueError as error:
            text = str(error)
            refused = "different peft types" in text or "is not compatible with the `PeftMixedModel`" in text
            if not refused or PEFT_TYPE.value not in text:
                raise
            raise ValueError(
                f"{text} To combine a Deep LoRA adapter with LoRA adapters, export it with "
                "`deep_lora.save_as_lora(folder, model)`, which keeps the update, and load the export beside them"
            ) from error

    return refuse
