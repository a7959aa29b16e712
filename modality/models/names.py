"""What saved weights do not say: which names mean the same tensor, and which parameters are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

_TABLES = ("_modules", "_parameters", "_buffers")


def shared_names(model: nn.Module) -> dict[str, str]:
    """Map every further name of a module, parameter or buffer to its first name; skip names inside a shared module.

    >>> tower = nn.Linear(2, 2)
    >>> shared_names(nn.ModuleDict({"x": tower, "y": tower, "z": nn.Linear(2, 2)}))
    {'y': 'x'}
    """
    first: dict[int, str] = {}
    further: dict[str, str] = {}

    def is_new(path: str, thing: object) -> bool:
        if id(thing) in first:
            further[path] = first[id(thing)]
            return False
        first[id(thing)] = path
        return True

    def visit(path: str, module: nn.Module) -> None:
        for name, tensor in _own_tensors(module):
            is_new(path + name, tensor)
        for name, child in module._modules.items():
            if child is not None and _has_tensors(child) and is_new(path + name, child):
                visit(f"{path}{name}.", child)

    visit("", model)
    return further


def share_(model: nn.Module, names: dict[str, str]) -> None:
    """Make every name of `shared_names` mean the same object again, in a model of the same structure.

    >>> model = nn.ModuleDict({"x": nn.Linear(2, 2), "y": nn.Linear(2, 2)})
    >>> share_(model, {"y.weight": "x.weight"})
    >>> model["y"].weight is model["x"].weight
    True
    """
    for name, first in names.items():
        (parent, _, attribute), (source, _, original) = name.rpartition("."), first.rpartition(".")
        for table in _TABLES:
            mine, theirs = getattr(model.get_submodule(parent), table), getattr(model.get_submodule(source), table)
            if attribute in mine:
                mine[attribute] = theirs[original]


def drop_shared_names(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Keep one name of every tensor in a state dict, as safetensors requires; a hook."""
    further = {
        prefix + name + rest
        for name, first in shared_names(module).items()
        for rest in _endings(state, prefix + name)
        if prefix + first + rest in state
    }
    for key in further:
        del state[key]


def fill_shared_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Fill in missing names from another name of the same tensor before loading; a hook."""
    for name, first in shared_names(module).items():
        for given, wanted in ((first, name), (name, first)):
            for rest in _endings(state, prefix + given):
                state.setdefault(prefix + wanted + rest, state[prefix + given + rest])


def trained_names(model: nn.Module) -> list[str]:
    """List the outermost modules that are trained completely ("" for the model), and single parameters elsewhere.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> _ = model[0].weight.requires_grad_(False)
    >>> trained_names(model)
    ['0.bias', '1']
    """
    return _visited("", model)


def train_only_(model: nn.Module, names: Iterable[str]) -> None:
    """Train the parameters and modules with these names, and freeze everything else.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> train_only_(model, ["0.bias", "1"])
    >>> trained_names(model)
    ['0.bias', '1']
    """
    wanted = set(names)
    for name, parameter in model.named_parameters():
        around = accumulate(name.split("."), lambda outer, inner: f"{outer}.{inner}")
        parameter.requires_grad_("" in wanted or not wanted.isdisjoint(around))


def _endings(state: dict[str, Any], name: str) -> list[str]:
    """List what follows a name in the keys that start with it."""
    return [key[len(name) :] for key in state if key == name or key.startswith(name + ".")]


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _has_tensors(module: nn.Module) -> bool:
    return any(True for inner in module.modules() for _ in _own_tensors(inner))


def _visited(path: str, module: nn.Module) -> list[str]:
    flags = {parameter.requires_grad for parameter in module.parameters()}
    if flags != {True, False}:
        return [path] if flags == {True} else []
    start = f"{path}." if path else ""
    own = [start + name for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
    return own + [name for child, inner in module.named_children() for name in _visited(start + child, inner)]
