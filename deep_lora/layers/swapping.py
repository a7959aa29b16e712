"""Call a base layer with another weight than its own."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


def call_with(base: nn.Module, name: str, tensor: Float[Tensor, "*shape"], *args: Any, **kwargs: Any) -> Any:
    """Return `base(*args, **kwargs)` with that tensor in place of its parameter `name`.

    During the call the tensor is in the instance's dictionary, which attribute lookup tries first:
    `torch.func.functional_call` misses the views that FSDP 1 keeps there.

    Raises:
        ValueError: if the parameter is parametrized, which hides every other value.

    >>> import torch
    >>> call_with(nn.Linear(1, 1, bias=False), "weight", torch.ones(1, 1), torch.ones(1))
    tensor([1.])
    """
    if parametrize.is_parametrized(base, name):
        raise ValueError(
            f"`{name}` of a {type(base).__bases__[0].__name__} is parametrized, so an adapter cannot give it another "
            "value for a call; take it off with `torch.nn.utils.parametrize.remove_parametrizations`, or "
            "do not target this module"
        )
    values = vars(base)
    before = {name: values[name]} if name in values else {}
    values[name] = tensor
    try:
        return base(*args, **kwargs)
    finally:
        del values[name]
        values.update(before)
