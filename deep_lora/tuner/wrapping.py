"""Wrapping functions of PEFT, once however often the package is imported."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_WRAPPED = "_wrapped_by_deep_lora"


def wrap(owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a function of a class or a module by `wrapper(function)`; do nothing if that has been done (reload).

    Of a class method, the function that takes the class as its first argument is wrapped.
    """
    held = vars(owner).get(name) or getattr(owner, name)
    original = held.__func__ if isinstance(held, classmethod) else held
    if not getattr(original, _WRAPPED, False):
        wrapped = functools.wraps(original)(wrapper(original))
        setattr(wrapped, _WRAPPED, True)
        setattr(owner, name, classmethod(wrapped) if isinstance(held, classmethod) else wrapped)
