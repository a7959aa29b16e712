"""Which modules of a model have a weight that their owner reads, often without ever calling them.

`nn.MultiheadAttention` does this with its `out_proj`, the fast path of `nn.TransformerEncoderLayer` with all its
matrices, WavLM's attention with its projections, Mamba with `dt_proj`. An adapter there has an effect only if what is
read holds its update.
"""

from __future__ import annotations

import dis
import inspect
from functools import cache
from types import CodeType, FunctionType

from torch import nn

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
    owner: nn.Module | None = model
    for depth in range(len(parts)):
        if owner is None:
            return False
        inside = "." + ".".join(parts[depth:])
        if any(inside.endswith(f".{read}") for read in _weights_read_by(type(owner))):
            return True
        owner = owner._modules.get(parts[depth])
    return False


@cache
def _weights_read_by(kind: type[nn.Module]) -> frozenset[str]:
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
