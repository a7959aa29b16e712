"""What is trained of a half-precision base is trained in float32, and gets and gives what its neighbours take."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

_HALF = (torch.float16, torch.bfloat16)


def train_in_full_precision(model: nn.Module) -> None:
    """Keep what is trained of a half-precision base, such as a new head, in float32.

    Adapters convert their inputs themselves. Modules that are trained whole get theirs converted, so that no autocast
    is needed; what they return is converted back inside of the base, and stays in float32 for the loss of a head.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in _HALF:
            parameter.data = parameter.data.float()
    for part in model.modules():
        if isinstance(part, PeftModel):
            _convert_around_whole_modules(part.get_base_model())


def _convert_around_whole_modules(base: nn.Module) -> None:
    prefix = str(getattr(base, "base_model_prefix", ""))
    for name, wrapper in base.named_modules():
        if not isinstance(wrapper, ModulesToSaveWrapper):
            continue
        before = _precision(wrapper.original_module)
        if before not in _HALF:
            continue
        for whole in wrapper.modules_to_save.values():
            whole.register_forward_pre_hook(_convert_inputs, with_kwargs=True)
        is_head = hasattr(base, prefix) and name.partition(".")[0] != prefix
        if not is_head:
            wrapper.register_forward_hook(partial(_convert_output, before))


def _convert_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    dtype = _precision(module)
    return tuple(_converted(value, dtype) for value in args), {k: _converted(v, dtype) for k, v in kwargs.items()}


def _convert_output(dtype: torch.dtype, module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_converted(value, dtype) for value in output)
    return _converted(output, dtype)


def _converted(value: Any, dtype: torch.dtype | None) -> Any:
    return value.to(dtype or value.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _precision(module: nn.Module) -> torch.dtype | None:
    """Return the precision of the module's weights, or None if it has none."""
    return next((parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()), None)
