"""Undo what `torch.compile`, DataParallel and others put around a model and into the names of its modules."""

from __future__ import annotations

from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import nn


def unwrapped(model: nn.Module) -> Any:
    """Return the model itself, without `torch.compile`, DataParallel and the like around it."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def uncompiled(name: str) -> str:
    """Return the name without what `torch.compile` adds for submodules that are compiled one by one.

    >>> uncompiled("encoder.layer.0._orig_mod.query")
    'encoder.layer.0.query'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
