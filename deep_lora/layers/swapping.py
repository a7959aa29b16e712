"""Call a base layer with another weight than its own, and find out what its forward pass does with its weight."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


def call_with(base: nn.Module, name: str, tensor: Float[Tensor, "*shape"], *args: Any, **kwargs: Any) -> Any:
    """Return `base(*args, **kwargs)` with that tensor in place of its parameter `name`.

    During the call the tensor is in the instance's dictionary, which attribute lookup tries first:
    `torch.func.functional_call` misses the views that FSDP 1 keeps there.

    Raises:
        ValueError: if the parameter is parametrized, which hides every other value.

    >>> call_with(nn.Linear(1, 1, bias=False), "weight", torch.ones(1, 1), torch.ones(1))
    tensor([1.])
    """
    if parametrize.is_parametrized(base, name):
        raise ValueError(
            f"`{name}` of a {type(base).__bases__[0].__name__} is parametrized, so an adapter cannot give it another "
            "value for a call; remove the parametrization with `torch.nn.utils.parametrize.remove_parametrizations`, "
            "or do not target this module"
        )
    values = vars(base)
    before = {name: values[name]} if name in values else {}
    values[name] = tensor
    try:
        return base(*args, **kwargs)
    finally:
        del values[name]
        values.update(before)


def has_own_forward(base: nn.Module, *plain: type[nn.Module]) -> bool:
    """Tell whether a layer has another forward pass than these classes.

    >>> has_own_forward(nn.Linear(1, 1), nn.Linear), has_own_forward(nn.Bilinear(1, 1, 1), nn.Linear)
    (False, True)
    """
    return all(type(base).forward is not kind.forward for kind in plain)


def can_be_tried(base: nn.Module) -> bool:
    """Tell whether the `weight` of a layer is there, and one to which something can be added."""
    weight = base._parameters.get("weight")
    if type(weight) is not nn.Parameter or weight.is_meta:
        return False
    return weight.is_floating_point() and weight.dtype.itemsize > 1


@torch.no_grad()
def is_additive(
    base: nn.Module, x: Tensor, left: Float[Tensor, " rows"], right: Float[Tensor, " columns"], expected: Tensor
) -> bool | None:
    """Tell whether a copy of a layer gives `y + expected` with the weight `W + left right^T`, if it gives y with W.

    Returns:
        None if the layer does not take x, or does not give a tensor of the shape of `expected`.

    >>> layer, x = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0]])
    >>> is_additive(layer, x, torch.ones(1), torch.ones(2), torch.tensor([[7.0]]))
    True
    """
    try:
        tried: Any = copy.deepcopy(base).eval().cpu()  # an index out of range is an error there, and ends CUDA for good
        before = tried(x)
        tried.weight.addcmul_(left[:, None], right)
        after = tried(x)
    except Exception:  # it takes something else, or is of a kind that nobody knows
        return None
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.shape != expected.shape:
        return None
    tolerance = max(1e-4, 4 * torch.finfo(before.dtype).eps)
    return bool((after - before - expected).norm() <= tolerance * expected.norm())


def example(count: int, like: Tensor) -> Tensor:
    """Return numbers between -1 and 1, neighbors far apart, on the CPU in the precision of another tensor."""
    return torch.arange(1, count + 1, dtype=torch.float64).mul(2.4).sin().to(like.dtype)
