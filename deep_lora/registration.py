"""Make PEFT know the method: a member of its closed enum `PeftType`, and entries in its mappings.

PEFT offers `register_peft_method` to third parties but looks types up in an enum that nobody can extend officially, so
the member is added by hand. It pickles by name and imports this package when it is unpickled in a fresh process.
"""

from __future__ import annotations

import copyreg
import importlib
import threading
import warnings
from typing import Any

from peft import mapping
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

_OWNER = "deep_lora"
_OWNER_ATTRIBUTE = "_plugin_owner_"
_LOCK = threading.RLock()
_TABLES = (
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING,
    mapping.PEFT_TYPE_TO_TUNER_MAPPING,
    mapping.PEFT_TYPE_TO_MIXED_MODEL_MAPPING,
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING,
)


def _restore(owner: str, name: str) -> PeftType:
    """Unpickle a member, possibly before its package was imported in this process."""
    importlib.import_module(owner)
    return PeftType[name]


def _reduce(member: PeftType) -> tuple[Any, ...]:
    owner = getattr(member, _OWNER_ATTRIBUTE, None)
    return (PeftType, (member._value_,)) if owner is None else (_restore, (owner, member._name_))


def claim_peft_type(name: str) -> PeftType:
    """Return the `PeftType` member called NAME, adding it if needed.

    Idempotent under reload and second import. If PEFT itself ships a method of that name one day, ours becomes
    NAME_PLUGIN and a warning says so.

    >>> claim_peft_type("deep_lora") is PeftType("DEEP_LORA")
    True
    """
    with _LOCK:
        upper = name.upper()
        member = PeftType.__members__.get(upper)
        if member is not None:
            if getattr(member, _OWNER_ATTRIBUTE, None) == _OWNER:
                return member
            warnings.warn(
                f"PEFT already has a method called {name!r}; deep_lora registers as {name + '_plugin'!r} instead.",
                stacklevel=2,
            )
            return claim_peft_type(f"{name}_plugin")
        member = str.__new__(PeftType, upper)
        member._name_ = member._value_ = upper
        member.__objclass__ = PeftType
        member._sort_order_ = len(PeftType._member_names_)
        setattr(member, _OWNER_ATTRIBUTE, _OWNER)
        # The attribute goes first: the metaclass refuses to rebind what is already in the member map.
        type.__setattr__(PeftType, upper, member)
        PeftType._member_map_[upper] = PeftType._value2member_map_[upper] = member
        PeftType._member_names_.append(upper)
        copyreg.pickle(PeftType, _reduce)
        return member


def register(member: PeftType, config_cls: type, model_cls: type) -> None:
    """Enter the method into PEFT's mappings; a reload replaces our own earlier entries."""
    with _LOCK:
        if mapping.PEFT_TYPE_TO_CONFIG_MAPPING.get(member) is config_cls:
            return
        for table in _TABLES:
            table.pop(member, None)  # only ever our own entry: claim_peft_type returned a member that we own
        register_peft_method(
            name=member.value.lower(),
            config_cls=config_cls,
            model_cls=model_cls,
            prefix=model_cls.prefix,  # type: ignore[attr-defined]
        )
