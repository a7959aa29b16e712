"""Tensors that FSDP 2 has sharded over processes, gathered. Every process has to call these, in the same order."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def gathered(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the tensor, all of it on each process if it is sharded.

    >>> gathered(torch.ones(2))
    tensor([1., 1.])
    """
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def spread_like(value: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return this process's part of a value that all processes have, sharded as the target is.

    >>> spread_like(torch.ones(2), torch.zeros(2))
    tensor([1., 1.])
    """
    if not hasattr(target, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor, Replicate  # needs a build of torch with distributed

    spread: Any = target
    everywhere = [Replicate()] * spread.device_mesh.ndim
    on_all = DTensor.from_local(value.to(target.device), spread.device_mesh, everywhere, run_check=False)
    return on_all.redistribute(placements=spread.placements)


@torch.no_grad()
def write_(target: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"]) -> None:
    """Copy the value into the target; each process copies its part where the target is sharded.

    >>> ones = torch.zeros(2)
    >>> write_(ones, torch.ones(2))
    >>> ones
    tensor([1., 1.])
    """
    target.copy_(spread_like(value, target))
