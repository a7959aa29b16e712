"""Adapters that are disabled in a forward pass with activation checkpointing are disabled when it is computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from deep_lora.layers.base import DeepLoraLayer

_CHECKPOINT = "_gradient_checkpointing_func"  # of every module of transformers that is computed again


def remember_disabled_(model: nn.Module) -> None:
    """Let what is computed again in the backward pass have the adapters that it had in the forward pass.

    The block of `disable_adapter()` has ended by then. torch does not see the difference in reentrant checkpointing.
    """
    for module in model.modules():
        checkpoint = vars(module).get(_CHECKPOINT)
        if checkpoint is not None and not isinstance(checkpoint, _Remembering):
            vars(module)[_CHECKPOINT] = _Remembering(module, checkpoint)


class _Remembering:
    """A checkpointing function for one module, which may be pickled and copied with it."""

    def __init__(self, module: nn.Module, checkpoint: Callable[..., Any]) -> None:
        self.module, self.checkpoint = module, checkpoint

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        parts: list[Any] = [m for m in self.module.modules() if isinstance(m, DeepLoraLayer | AuxiliaryTrainingWrapper)]
        disabled = [part for part in parts if part._disable_adapters]

        def again(*args: Any, **kwargs: Any) -> Any:
            with _disabled(disabled):
                return function(*args, **kwargs)

        return self.checkpoint(again if disabled else function, *args, **kwargs)


@contextmanager
def _disabled(parts: list[Any]) -> Iterator[None]:
    before = [part._disable_adapters for part in parts]
    for part in parts:
        part._disable_adapters = True
    try:
        yield
    finally:
        for part, was in zip(parts, before, strict=True):
            part._disable_adapters = was
