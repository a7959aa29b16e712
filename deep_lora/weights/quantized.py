"""What PEFT knows about the quantizer of a layer."""

from __future__ import annotations

from typing import Any

from peft.utils import resolve_quantization_backend
from torch import nn


def quantization_backend(base: nn.Module, get_apply_tensor_subclass: Any = None) -> Any:
    """Return PEFT's backend for a layer, None if it is not quantized.

    A layer that torchao quantized by hand (`quantize_`, without a model of transformers that says how) has a backend
    that cannot merge.

    >>> quantization_backend(nn.Linear(2, 2)) is None
    True
    """
    by_hand = get_apply_tensor_subclass is None
    asked = _nobody_knows if by_hand else get_apply_tensor_subclass
    backend = resolve_quantization_backend(base, get_apply_tensor_subclass=asked)
    if by_hand and getattr(backend, "get_apply_tensor_subclass", None) is asked:
        backend.supports_merge = False
    return backend


def _nobody_knows() -> None:
    """Stand in for torchao's configuration, without which PEFT makes no backend."""


def check_mergeable(backend: Any) -> None:
    """Refuse to merge into a weight that was quantized in a way that cannot be written.

    Raises:
        ValueError: it was.
    """
    if backend is not None and not backend.supports_merge:
        raise ValueError(
            f"Cannot merge adapters into a model quantized with {backend.backend_name}: its weights cannot be "
            "rewritten. Keep the adapter separate, or export it with `deep_lora.save_as_lora`."
        )
