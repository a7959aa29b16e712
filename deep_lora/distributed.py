"""Sum gradient sketches over the ranks of a process group, so that every rank holds the same subspaces."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from deep_lora.gradients import GradientSketch


def sum_over_ranks(sketches: list[GradientSketch]) -> None:
    """Replace every sketch by the sum over all ranks, in place; nothing happens without a process group.

    Two collectives in all: the counters, then all states in one buffer. The merge is the same arithmetic on the same
    numbers everywhere; rank 0's result is broadcast, so that even different devices cannot disagree.
    """
    if not sketches or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    device = sketches[0].device
    counters = torch.tensor([[s.calls, not s.finite] for s in sketches], dtype=torch.long, device=device)
    dist.all_reduce(counters)
    states = _gather(_pack(sketches, device))
    for position, sketch in enumerate(sketches):
        sketch.calls = int(counters[position, 0])
        sketch.finite = int(counters[position, 1]) == 0
    if not all(sketch.finite for sketch in sketches):
        return
    per_rank = [_unpack(buffer, sketches) for buffer in states]
    for position, sketch in enumerate(sketches):
        sketch.merge([rank_states[position] for rank_states in per_rank])
    merged = _pack(sketches, device)
    dist.broadcast(merged, src=0)
    for sketch, state in zip(sketches, _unpack(merged, sketches), strict=True):
        sketch.state = state


def _pack(sketches: list[GradientSketch], device: torch.device) -> Tensor:
    return torch.cat([tensor.to(device).double().flatten() for sketch in sketches for tensor in sketch.state])


def _gather(buffer: Tensor) -> list[Tensor]:
    buffers = [torch.empty_like(buffer) for _ in range(dist.get_world_size())]
    dist.all_gather(buffers, buffer)
    return buffers


def _unpack(buffer: Tensor, sketches: list[GradientSketch]) -> list[tuple[Tensor, ...]]:
    shapes = [tensor.shape for sketch in sketches for tensor in sketch.state]
    pieces = iter(buffer.split([shape.numel() for shape in shapes]))
    return [tuple(next(pieces).reshape(tensor.shape).to(tensor) for tensor in sketch.state) for sketch in sketches]
