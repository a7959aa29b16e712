"""Sum gradient sketches over the ranks of a process group, so that every rank holds the same subspaces."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from deep_lora.subspaces.sketch import GradientSketch


def sum_over_ranks(sketches: list[GradientSketch]) -> None:
    """Replace every sketch by the sum over all ranks, in place; nothing happens without a process group.

    The counters of all layers first, then layer by layer, so that memory stays that of one layer times the ranks.
    Gradients that were formed are summed. Factors are merged, the same arithmetic on the same numbers everywhere; rank
    0's result is broadcast, so that even different devices cannot disagree.
    """
    if not sketches or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    device = sketches[0].device
    counters = torch.tensor([[s.calls, not s.finite] for s in sketches], dtype=torch.long, device=device)
    dist.all_reduce(counters)
    for position, sketch in enumerate(sketches):
        sketch.calls = int(counters[position, 0])
        sketch.finite = int(counters[position, 1]) == 0
    if not all(sketch.finite for sketch in sketches):
        return
    for sketch in sketches:
        if sketch.exact:
            dist.all_reduce(sketch.state[0])
            continue
        sketch.merge([_unpacked(buffer, sketch) for buffer in _gather(_packed(sketch))])
        merged = _packed(sketch)
        dist.broadcast(merged, src=0)
        sketch.state = _unpacked(merged, sketch)


def _packed(sketch: GradientSketch) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in sketch.state])


def _gather(buffer: Tensor) -> list[Tensor]:
    buffers = [torch.empty_like(buffer) for _ in range(dist.get_world_size())]
    dist.all_gather(buffers, buffer)
    return buffers


def _unpacked(buffer: Tensor, sketch: GradientSketch) -> tuple[Tensor, ...]:
    pieces = buffer.split([tensor.numel() for tensor in sketch.state])
    return tuple(piece.reshape(tensor.shape) for piece, tensor in zip(pieces, sketch.state, strict=True))
