"""Which parameters of a model are trained, in few names."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from torch import nn


def trained_names(model: nn.Module) -> list[str]:
    """The outermost modules of which every parameter is trained ("" for the model), and single parameters elsewhere.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> _ = model[0].weight.requires_grad_(False)
    >>> trained_names(model)
    ['0.bias', '1']
    """
    return _visited("", model)


def train_only_(model: nn.Module, names: Iterable[str]) -> None:
    """Train what has, or lies in a module that has, one of these names, and freeze everything else.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> train_only_(model, ["0.bias", "1"])
    >>> trained_names(model)
    ['0.bias', '1']
    """
    wanted = set(names)
    for name, parameter in model.named_parameters():
        around = accumulate(name.split("."), lambda outer, inner: f"{outer}.{inner}")
        parameter.requires_grad_("" in wanted or not wanted.isdisjoint(around))


def _visited(path: str, module: nn.Module) -> list[str]:
    flags = {parameter.requires_grad for parameter in module.parameters()}
    if flags != {True, False}:
        return [path] if flags == {True} else []
    start = f"{path}." if path else ""
    own = [start + name for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
    return own + [name for child, inner in module.named_children() for name in _visited(start + child, inner)]
