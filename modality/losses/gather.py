"""Features of all ranks on every rank, with gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

Group = dist.ProcessGroup | None


class Gathered(NamedTuple):
    """Rows of all ranks in rank order, and where those of this rank start."""

    rows: Shaped[Tensor, "total ..."]
    offset: int
    world_size: int


def gather_features(x: Shaped[Tensor, "n ..."], *, group: Group = None) -> Shaped[Tensor, "total ..."]:
    """Gather the rows of every rank, in rank order; gradients flow back to the rank that a row came from.

    The backward pass sums the gradients of a row over all ranks. So if each rank computes a loss `loss_r` from the
    gathered rows, DDP (which averages) gives the gradient of `mean_r loss_r` with respect to every parameter, before
    and after the gather. A loss that every rank computes on all rows needs no scaling; one that rank r sums over its
    own rows needs a factor of `world_size / total`, as in `contrastive_loss(..., gather=True)`.

    Ranks may hold different numbers of rows, also none. Integers and booleans are gathered without gradients. Without
    torch.distributed, or with one process, `x` itself is returned. This is a collective: every rank must call it.

    Args:
        x: (n, ...); everything but n is the same on all ranks.
        group: the ranks that take part; all by default.

    Raises:
        ValueError: for a scalar, which has no rows.

    >>> gather_features(torch.eye(2)).shape
    torch.Size([2, 2])
    """
    return gather_rows(x, group=group).rows


def gather_rows(x: Shaped[Tensor, "n ..."], *, group: Group = None) -> Gathered:
    """Gather as `gather_features` does, and tell where the rows of this rank are."""
    if x.dim() == 0:
        raise ValueError("only rows can be gathered, got a scalar; `x.reshape(1)` makes one row of it")
    world_size = world_size_of(group)
    if world_size == 1:
        return Gathered(x, 0, 1)
    sizes = _sizes(x, group, world_size)
    gathered = _AllGather.apply(x, sizes, group) if x.is_floating_point() else _all_gather(x, sizes, group)
    return Gathered(gathered, sum(sizes[: dist.get_rank(group)]), world_size)


def world_size_of(group: Group = None) -> int:
    """Count the ranks; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def _sizes(x: Tensor, group: Group, world_size: int) -> list[int]:
    own = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(own) for _ in range(world_size)]
    dist.all_gather(sizes, own, group=group)
    return torch.cat(sizes).tolist()


def _all_gather(x: Tensor, sizes: list[int], group: Group) -> Tensor:
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x
    buffers = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(buffers, padded, group=group)
    return torch.cat([buffer[:size] for buffer, size in zip(buffers, sizes, strict=True)])


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: Group) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _all_gather(x.detach(), sizes, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total.split(ctx.sizes)[dist.get_rank(ctx.group)], None, None
