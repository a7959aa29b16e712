"""Which modules of a model have a weight that their owner reads, often without ever calling them.

`nn.MultiheadAttention` does this with its `out_proj`, the fast path of `nn.TransformerEncoderLayer` with all its
matrices, WavLM's attention with its projections, Mamba with `dt_proj`. An adapter there has an effect only if what is
read holds its update.
"""

from __future__ import annotations

import dis
import inspect
import threading
from functools import cache
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from deep_lora.functional import add_to_weight
from deep_lora.sharded import spread_like

# Read to look at the tensor, not to compute with it.
_QUERIES = {"dtype", "device", "shape", "size", "ndim", "dim", "numel", "is_meta", "requires_grad", "data", "grad"}
_NOT_COMPUTING = ("init", "reset", "tie", "resize", "load", "set_", "get_")


def weight_is_read(model: nn.Module, name: str) -> bool:
    """Tell whether a module that holds the one of that name computes with its `weight`, by its own methods' code.

    >>> weight_is_read(nn.Sequential(nn.MultiheadAttention(4, 2)), "0.out_proj")
    True
    >>> weight_is_read(nn.Sequential(nn.Linear(2, 2)), "0")
    False
    """
    parts = name.split(".")
    owner: Any = model
    for depth in range(len(parts)):
        if owner is None:
            return False
        inside = "." + ".".join(parts[depth:])
        kind: Any = type(owner)
        if any(inside.endswith(f".{read}") for read in _weights_read_by(kind)):
            return True
        owner = owner._modules.get(parts[depth])
    return False


@cache
def _weights_read_by(kind: Any) -> frozenset[str]:
    """The dotted names of modules of which methods of that class read the weight."""
    found: set[str] = set()
    for ancestor in kind.__mro__:
        if ancestor is nn.Module:
            break
        for name, method in vars(ancestor).items():
            if isinstance(method, FunctionType) and not any(word in name for word in _NOT_COMPUTING):
                found.update(_reads(inspect.unwrap(method).__code__))
    return frozenset(found)


def _reads(code: CodeType) -> set[str]:
    """`a.b` for each `self.a.b.weight` in the code of a function, unless only its dtype or the like is asked for."""
    found: set[str] = set()
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found.update(_reads(inner))
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(instruction.argval)
            continue
        found.update(_read_in(chain))
        chain = []
    return found | _read_in(chain)


def _read_in(chain: list[str]) -> set[str]:
    at = chain.index("weight") if "weight" in chain else 0
    return set() if at == 0 or chain[at + 1 : at + 2] and chain[at + 1] in _QUERIES else {".".join(chain[:at])}


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
