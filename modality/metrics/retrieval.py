"""Retrieval between modalities, in blocks: recall at k, and the margin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modality.rows import UNKNOWN_ID, as_rows, check_pairs, same_ids, unit_rows

BLOCK_ROWS = 1024


@torch.no_grad()
def recall_at_k(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    ks: Sequence[int] = (1, 5),
    *,
    x_ids: Int[Tensor, " n"] | None = None,
    y_ids: Int[Tensor, " m"] | None = None,
    block_size: int = BLOCK_ROWS,
) -> dict[str, float]:
    """Compute the share of queries whose counterpart is among the k nearest by cosine, in both directions.

    The pool is every row of the other modality; a recall means little without its size, so that is returned too. Rows
    with other ids and the same score as the counterpart count as nearer, so collapsed features score 0.

    Args:
        x, y: features of any norm, as tensors, arrays of NumPy or lists. Without ids they are pairs, row by row.
        ks: numbers of candidates.
        x_ids, y_ids: what each row shows. A query is a hit if any row with its id is among the k nearest, so several
            captions for an image, and duplicates, are right answers, not distractors. For pairs one of them suffices,
            and an id of -1 stands for an unknown one, like that of no other pair.
        block_size: queries at a time: memory O(block_size * pool).

    Returns:
        `x_to_y_recall@k` and `y_to_x_recall@k` for each k, `x_to_y_pool` and `y_to_x_pool`.

    Raises:
        TypeError, ValueError: for features that do not fit or are not finite, a k or block below 1, or a query without
            a counterpart.

    >>> recall_at_k(torch.eye(3), torch.eye(3)[[1, 0, 2]], ks=(1, 2))["x_to_y_recall@1"]
    0.3333333333333333
    """
    check_ks(ks)
    x, y = as_rows(x), as_rows(y)
    x_ids, y_ids = _ids(x, y, x_ids, y_ids)
    x, y = _directions(x, y, block_size)
    found: dict[str, float] = {}
    for name, queries, keys, query_ids, key_ids in (("x_to_y", x, y, x_ids, y_ids), ("y_to_x", y, x, y_ids, x_ids)):
        ranks = _ranks(queries, keys, query_ids, key_ids, block_size)
        if (ranks < 0).any():
            raise ValueError(f"{int((ranks < 0).sum())} queries {name} have no row with their id in the pool")
        found |= {f"{name}_recall@{k}": (ranks < k).double().mean().item() for k in ks}
        found[f"{name}_pool"] = float(len(keys))
    return found


@torch.no_grad()
def margin(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    *,
    ids: Int[Tensor, " n"] | None = None,
    block_size: int = BLOCK_ROWS,
) -> float:
    """Compute the margin of pairs, which is positive if and only if all of them are matched.

        min_{i != j} min(Z_ii - Z_ij, Z_jj - Z_ij)   with the cosines Z

    Args:
        x, y: pairs of features, any norm, as in `recall_at_k`.
        ids: pairs with the same id are duplicates and are not compared; -1 stands for an unknown one.
        block_size: rows at a time: memory O(block_size n).

    Raises:
        TypeError, ValueError: for features or ids that do not fit or are not finite, or a block below 1.

    Source: Yaras et al., CPAL 2025, the margin of perfectly matched pairs.

    >>> round(margin(torch.eye(3), torch.eye(3)), 4)
    1.0
    """
    x, y = as_rows(x), as_rows(y)
    check_pairs(x, y)
    ids, _ = _ids(x, y, ids, None)
    x, y = _directions(x, y, block_size)
    own = (x * y).sum(1)
    smallest = math.inf
    for start in range(0, len(x), block_size):
        rows = slice(start, start + block_size)
        cosines = (x[rows] @ y.mT).masked_fill_(same_ids(ids[rows], ids), -math.inf)
        nearest = torch.minimum(own[rows] - cosines.amax(1), (own - cosines).amin())
        smallest = min(smallest, nearest.amin().item())
    return smallest


def check_ks(ks: Sequence[int]) -> None:
    """Raise unless these can be the k of recall at k."""
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise ValueError(f"`ks` must be positive integers, got {ks!r}")


def _ranks(queries: Tensor, keys: Tensor, query_ids: Tensor, key_ids: Tensor, block_size: int) -> Int[Tensor, " n"]:
    """Count the rows with other ids that come before the best row with the query's id; -1 without such a row."""
    ranks = []
    for rows, ids in zip(queries.split(block_size), query_ids.split(block_size), strict=True):
        scores, same = rows @ keys.mT, same_ids(ids, key_ids)
        best = scores.masked_fill(~same, -math.inf).amax(1)
        before = ((scores >= best[:, None]) & ~same).sum(1)
        ranks.append(torch.where(same.any(1), before, -1))
    return torch.cat(ranks)


def _directions(x: Tensor, y: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"`block_size` must be a positive number of rows, got {block_size!r}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("features with NaN or inf have no nearest neighbors; check the precision of the model")
    return unit_rows(x), unit_rows(y)


def _ids(x: Tensor, y: Tensor, x_ids: Tensor | None, y_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    are_pairs = x_ids is None or y_ids is None
    x_ids, y_ids = (None if ids is None else torch.as_tensor(ids) for ids in (x_ids, y_ids))
    if x_ids is None or y_ids is None:
        check_pairs(x, y)
        given = x_ids if x_ids is not None else y_ids
        x_ids = y_ids = torch.arange(len(x)) if given is None else given
    elif x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"both modalities must be matrices of one width, got shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )
    for rows, ids in ((x, x_ids), (y, y_ids)):
        if ids.shape != (len(rows),) or ids.is_floating_point():
            raise ValueError(f"{len(rows)} rows need as many integer ids, got {ids.dtype} of shape {tuple(ids.shape)}")
    if are_pairs:
        x_ids = y_ids = _ids_of_pairs(x_ids)
    return x_ids.to(x.device), y_ids.to(x.device)


def _ids_of_pairs(ids: Tensor) -> Tensor:
    """Number the ids of pairs anew, each unknown one with a number of its own: a pair is like itself."""
    numbers = ids.unique(return_inverse=True)[1]
    return torch.where(ids == UNKNOWN_ID, len(ids) + torch.arange(len(ids), device=ids.device), numbers)
