"""A sum over rows in tiles, differentiated tile by tile in the same pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def sum_in_tiles(
    tile: Callable[..., Tensor], rows: Float[Tensor, "n d"], shared: tuple[Any, ...], size: int | None
) -> Float[Tensor, ""]:
    """Compute `tile(0, rows, *shared)` as the sum of `tile(start, rows[start : start + size], *shared)`.

    Each tile is differentiated as soon as it is computed, so only its gradients are kept: nothing is computed twice,
    and no small tensor stays on the heap between large ones, which would fragment it.

    Args:
        tile: first row, some rows, what all tiles share -> a sum over these rows.
        rows: what is cut into tiles.
        shared: tensors and other values; the sum is differentiable in the rows and in these tensors, once.
        size: rows in a tile; None for all at once, which can be differentiated as often as `tile`.

    Raises:
        ValueError: for a size that is not a positive integer.

    >>> sum_in_tiles(lambda start, rows, power: (rows**power).sum(), torch.arange(3.0)[:, None], (2,), size=2)
    tensor(5.)
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"`block_size` must be a positive number of rows, or None for all at once, got {size!r}")
    if size is None or size >= len(rows):
        return tile(0, rows, *shared)
    return _SumInTiles.apply(tile, size, torch.is_grad_enabled(), rows, *shared)


class _SumInTiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tile: Callable[..., Tensor], size: int, differentiate: bool, rows: Tensor, *shared: Any
    ) -> Tensor:
        wanted = [differentiate and needed for needed in ctx.needs_input_grad[3:]]
        rows_wanted, inputs = wanted[0], [_leaf(value, need) for value, need in zip(shared, wanted[1:], strict=True)]
        leaves = [value for value, need in zip(inputs, wanted[1:], strict=True) if need]
        of_rows = torch.empty_like(rows) if rows_wanted else None
        of_shared = [torch.zeros_like(leaf) for leaf in leaves]
        total: Tensor | None = None
        for start in range(0, len(rows), size):
            part = _leaf(rows[start : start + size], rows_wanted)
            with torch.set_grad_enabled(any(wanted)):
                value = tile(start, part, *inputs)
            total = value.detach() if total is None else total + value.detach()
            if any(wanted):
                found = list(torch.autograd.grad(value, [part, *leaves] if rows_wanted else leaves))
                if of_rows is not None:
                    of_rows[start : start + size] = found.pop(0)
                for held, gradient in zip(of_shared, found, strict=True):
                    held.add_(gradient)
        gradients = iter(of_shared)
        ctx.gradients = [of_rows, *(next(gradients) if need else None for need in wanted[1:])]
        assert total is not None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(None if held is None else gradient * held for held in ctx.gradients)


def _leaf(value: Any, requires_grad: bool) -> Any:
    return value.detach().requires_grad_(requires_grad) if isinstance(value, Tensor) else value
