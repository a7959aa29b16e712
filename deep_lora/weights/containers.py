"""`Factors`: the tensors of one kind, by the names of their adapters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Factors(nn.ParameterDict):
    """A `ParameterDict` that also takes names which its methods have, such as "copy" and "get".

    >>> import torch
    >>> factors = Factors()
    >>> factors["copy"] = nn.Parameter(torch.ones(2))
    >>> list(factors), [name for name, _ in factors.named_parameters()]
    (['copy'], ['copy'])
    """

    def __getitem__(self, key: str) -> Any:
        # FSDP 1 and DataParallel put plain tensors in the place of parameters, as attributes
        return self._parameters[key] if key in self._parameters else getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._keys[key] = None
        is_plain = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
        # Registered, though elsewhere: whoever has adapters made on the meta device listens to that.
        holder = nn.Module()
        holder.register_parameter("held", nn.Parameter(value) if is_plain else value)
        self._parameters[key] = holder._parameters["held"]

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        del self._parameters[key]


def check_adapter_name(name: str) -> None:
    """Raise if torch's containers cannot hold an adapter of that name.

    Raises:
        ValueError: the name is empty, has a dot, or is that of a method which every container has.

    >>> check_adapter_name("copy")
    """
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"an adapter cannot be called {name!r}: a name must not be empty, must have no dot, and must not be that "
            "of an attribute of `torch.nn.ModuleDict`; choose another name"
        )
