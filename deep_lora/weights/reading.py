"""Which modules of a model have a weight that their owner reads, often without ever calling them.

`nn.MultiheadAttention` does this with its `out_proj`, the fast path of `nn.TransformerEncoderLayer` with all its
matrices, WavLM's attention with its projections, Mamba with `dt_proj`. An adapter there has an effect only if what is
read holds its update.
"""

from __future__ import annotations

import dis
import inspect
import sys
import threading
from collections.abc import Collection, Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from deep_lora.functional import add_to_weight
from deep_lora.sharded import spread_like

# Read to look at the tensor, not to compute with it.
_QUERIES = {"dtype", "device", "shape", "size", "ndim", "dim", "numel", "is_meta", "requires_grad", "data", "grad"}
_NOT_COMPUTING = ("init", "reset", "tie", "resize", "load", "set_", "get_")


def weight_is_read(model: nn.Module, name: str) -> bool:
    """Tell whether a module that holds the one of that name computes with its `weight`, by its own methods' code.

    It may read the weight itself, or hand the module to a method of the model that does.

    >>> weight_is_read(nn.Sequential(nn.MultiheadAttention(4, 2)), "0.out_proj")
    True
    >>> weight_is_read(nn.Sequential(nn.Linear(2, 2)), "0")
    False
    """
    parts = name.split(".")
    owner: Any = model
    handed_over = False
    for depth in range(len(parts)):
        if owner is None:
            return False
        inside = "." + ".".join(parts[depth:])
        kind: Any = type(owner)
        methods = _methods(kind)
        if _ends_with_any(inside, methods.read):
            return True
        handed_over |= _ends_with_any(inside, methods.handed_over)
        owner = owner._modules.get(parts[depth])
    kinds: set[Any] = {type(module) for module in model.modules()} if handed_over else set()
    return any(_methods(kind).read_an_argument for kind in kinds)


def _ends_with_any(inside: str, names: Collection[str]) -> bool:
    return any(inside.endswith(f".{name}") for name in names)


class _Methods(NamedTuple):
    """What the methods of a class do with modules: their dotted names, as attributes of `self` or of a local.

    Attributes:
        read: those of which they read the weight.
        handed_over: those that they load without calling them.
        read_an_argument: whether they read the weight of a module that they are given.
    """

    read: frozenset[str]
    handed_over: frozenset[str]
    read_an_argument: bool


@cache
def _methods(kind: Any) -> _Methods:
    read: set[str] = set()
    handed_over: set[str] = set()
    read_an_argument = False
    for ancestor in kind.__mro__:
        if ancestor is nn.Module:
            break
        for name, method in vars(ancestor).items():
            if isinstance(method, FunctionType) and not any(word in name for word in _NOT_COMPUTING):
                code = inspect.unwrap(method).__code__
                for chain in _chains(code):
                    read.update(_read_in(chain.names))
                    if chain.root == "self" and not chain.is_called:
                        handed_over.add(".".join(chain.names))
                    read_an_argument |= chain.root in code.co_varnames[1 : code.co_argcount] and _is_read(chain.names)
    return _Methods(frozenset(read), frozenset(handed_over), read_an_argument)


class _Chain(NamedTuple):
    """`root.a.b`, and whether it is called at once."""

    root: str
    names: list[str]
    is_called: bool


def _chains(code: CodeType) -> Iterator[_Chain]:
    """Every chain of attributes in the code of a function and of those inside it."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _chains(inner)
    root, names, is_called = "", list[str](), False
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            names.append(step.argval)
            is_called = step.opname == "LOAD_METHOD" or sys.version_info >= (3, 12) and bool((step.arg or 0) & 1)
            continue
        if names:
            yield _Chain(root, names, is_called)
        root, names = "", []
        if step.opname.startswith("LOAD_FAST"):
            root = step.argval[-1] if isinstance(step.argval, tuple) else step.argval
    if names:
        yield _Chain(root, names, is_called)


def _read_in(names: list[str]) -> set[str]:
    """`a.b` if these are the names of `self.a.b.weight`, unless only its dtype or the like is asked for."""
    at = names.index("weight") if "weight" in names else 0
    return {".".join(names[:at])} if at > 0 and _is_read(names[at:]) else set()


def _is_read(names: list[str]) -> bool:
    """Tell whether these are the names of `module.weight` that is computed with."""
    return names[0] == "weight" and not (names[1:2] and names[1] in _QUERIES)


class ReadWeight:
    """The `weight` of an adapted layer; mixed in before PEFT's class of layers.

    Attributes:
        weight_is_read: by a module that holds this one.
        read_in_mixed_batch: for each thread within a batch of several adapters, whether it has read the weight.
    """

    weight_is_read: bool = False
    read_in_mixed_batch: dict[int, bool]

    if TYPE_CHECKING:
        in_features: int
        out_features: int
        disable_adapters: bool
        merged: bool
        quantization_backend: Any
        unmerge: Any
        unmerged_adapters: Any
        _dropped_delta_weight: Any
        training: bool

    @property
    def weight(self) -> Tensor:
        """The base's weight; with the active updates if `weight_is_read`, by a model that may never call the layer.

        In a batch with an adapter for each sample it is the base's, and `read_in_mixed_batch` says that it was read.
        """
        return self._updated(super().weight)  # type: ignore[misc]

    def _updated(self, weight: Tensor) -> Tensor:
        if not self.weight_is_read or not self._holds_weight(weight):
            return weight
        if self.disable_adapters and self.merged:
            self.unmerge()
        adapters = [] if self.disable_adapters else self.unmerged_adapters()
        if adapters and self.read_in_mixed_batch and threading.get_ident() in self.read_in_mixed_batch:
            self.read_in_mixed_batch[threading.get_ident()] = True
            return weight
        for adapter_name in adapters:
            update = self._dropped_delta_weight(adapter_name).to(weight.device)
            weight = add_to_weight(weight, spread_like(update, weight))
        return weight

    def _holds_weight(self, weight: Any) -> bool:
        """Tell whether it is the matrix of the layer: not packed by a quantizer, nor kept elsewhere."""
        present = isinstance(weight, Tensor) and weight.is_floating_point() and not weight.is_meta
        return present and self.quantization_backend is None and weight.numel() == self._numel()

    def _numel(self) -> int:
        return self.in_features * self.out_features
