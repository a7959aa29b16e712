"""Which modules a configuration names: the word for all linear layers, and what does not go together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft.utils import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR


def is_all_linear(targets: str | Iterable[str] | None) -> bool:
    """Tell whether targets stand for all linear layers, in PEFT's spelling or with capitals.

    >>> is_all_linear("All-linear"), is_all_linear("q_proj"), is_all_linear(["q_proj"])
    (True, False, False)
    """
    return isinstance(targets, str) and targets.lower() == ALL_LINEAR


def check_lists(**values: Any) -> None:
    """Check that lists of names are not strings, whose letters PEFT would take for names.

    Raises:
        TypeError: one is a string.
    """
    for name, value in values.items():
        if isinstance(value, str):
            raise TypeError(f"`{name}` must be a list of strings or None, got {value!r}; write [{value!r}]")


def check_targets(targets: str | Iterable[str], layers_to_transform: Any, layers_pattern: Any) -> None:
    """Check that targets are meant in one way.

    Raises:
        ValueError: 'all-linear' stands among names, or layers are chosen where a regex chooses, or by a pattern alone.
    """
    if not isinstance(targets, str) and ALL_LINEAR in targets:
        raise ValueError(
            f"`target_modules` got 'all-linear' in a list, {sorted(targets)}, where it is the name of a module; pass "
            "the string 'all-linear' alone, or names alone"
        )
    for name, value in (("layers_to_transform", layers_to_transform), ("layers_pattern", layers_pattern)):
        if value is not None and isinstance(targets, str) and not is_all_linear(targets):
            raise ValueError(f"`{name}` cannot be used when `target_modules` is a str. Got {targets!r}; pass a list.")
    if layers_pattern is not None and layers_to_transform is None:
        raise ValueError("When `layers_pattern` is specified, `layers_to_transform` must also be specified.")
