"""Models and names out of what `torch.compile` and others wrap around them."""

from __future__ import annotations

from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import nn


def unwrapped(model: nn.Module) -> Any:
    """The model itself, out of `torch.compile`, DataParallel and the like, which prefix the names of its modules."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def uncompiled(name: str) -> str:
    """The name without what `torch.compile` adds for submodules that are compiled one by one.

    >>> uncompiled("encoder.layer.0._orig_mod.query")
    'encoder.layer.0.query'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
