"""Rows of paired features: what every loss and metric checks, and their place on the unit sphere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evaluation_hooks import check_unmasked

UNKNOWN_ID = -1


def unit_rows(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Divide each row by its norm, in float32 or better; a zero row stays zero and passes no gradient.

    >>> unit_rows(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    working = at_least_float32(x)
    norms = torch.linalg.vector_norm(working, dim=-1, keepdim=True)
    return working / torch.where(norms > 0, norms, torch.inf)


def as_rows(features: Any) -> Any:
    """Return stored features as a tensor: arrays of NumPy, tables, and lists of rows; anything else as it is.

    Raises:
        ValueError: for an array with masked values.

    >>> as_rows([[1.0, 2.0]]), as_rows(np.eye(2)[::-1]).shape
    (tensor([[1., 2.]]), torch.Size([2, 2]))
    """
    check_unmasked(features, "features")
    rows = _stacked(features) if isinstance(features, list | tuple) and features else features
    if hasattr(rows, "__array__") and not isinstance(rows, Tensor):
        rows = np.asarray(rows)  # a table of pandas
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "biuf":
        return torch.from_numpy(np.array(rows))  # a copy: the file behind it may be read-only
    return rows


def _stacked(rows: Any) -> Any:
    """Return rows as one matrix, or as they are if they do not fit."""
    try:
        if isinstance(rows[0], Tensor):
            return torch.stack(list(rows))
        return np.stack(rows) if isinstance(rows[0], np.ndarray) else torch.tensor(rows)
    except (TypeError, ValueError, RuntimeError):
        return rows


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert half precision to float32: at an inverse temperature of 100 a bfloat16 cosine is off by 0.4 nats."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def products(x: Float[Tensor, "n d"], y: Float[Tensor, "d m"]) -> Float[Tensor, "n m"]:
    """Multiply in the precision of the factors, also under autocast: cosines in bfloat16 have three digits, and ties.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     products(torch.ones(1, 2), torch.ones(2, 1)).dtype
    torch.float32
    """
    with torch.autocast(x.device.type, enabled=False):
        return x @ y


def same_ids(ids: Int[Tensor, " n"], others: Int[Tensor, " m"]) -> Bool[Tensor, "n m"]:
    """Tell which rows show the same thing, `ids[i] == others[j]`; what -1 shows is unknown, so it is like no other.

    >>> same_ids(torch.tensor([7, -1]), torch.tensor([7, -1])).int().tolist()
    [[1, 0], [0, 0]]
    """
    ids, others = ids.long(), others.long()  # 255 as an unsigned byte is not -1
    return (ids[:, None] == others[None, :]) & (ids != UNKNOWN_ID)[:, None]


def check_pairs(x: Tensor, y: Tensor, *, may_be_empty: bool = False) -> None:
    """Raise unless `x` and `y` are floating-point matrices of the same shape, with rows unless they may be empty."""
    for name, rows in (("x", x), ("y", y)):
        if not isinstance(rows, Tensor) or not rows.is_floating_point():
            kind = f"{rows.dtype}; convert it with `.float()`" if isinstance(rows, Tensor) else type(rows).__name__
            raise TypeError(f"`{name}` must be a floating-point tensor of features, got {kind}")
    if x.dim() != 2 or x.shape != y.shape or 0 in (x.shape[1:] if may_be_empty else x.shape):
        raise ValueError(
            f"pairs are the rows of two (n, d) matrices of the same shape, got {tuple(x.shape)} and {tuple(y.shape)}; "
            "pool tokens, project both modalities to one width, and repeat a row that has several counterparts"
        )
