"""Ranks of right answers among candidates, in blocks: recall, NDCG, MRR and median rank of any search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evaluation_hooks import check_same_order
from modality.rows import as_rows, products, same_ids, unit_rows

BLOCK_ROWS = 1024
Right = Callable[[slice], Tensor]  # queries -> (queries, keys), which keys are right answers


@torch.no_grad()
def search_metrics(
    queries: Float[Tensor, "n d"],
    pool: Float[Tensor, "m d"],
    query_ids: Int[Tensor, " n"],
    pool_ids: Int[Tensor, " m"],
    ks: Sequence[int] = (1, 5, 10),
    *,
    block_size: int = BLOCK_ROWS,
) -> dict[str, float]:
    """Compute how well queries find their right answers in one pool, whose rows may be of several modalities.

    - `recall@k`: the share of queries with a right answer among the k nearest by cosine (a hit rate).
    - `ndcg@k`: the discounted gain of the k nearest, `sum 1 / log2(1 + rank)` over right answers, divided by
      that of the best possible order.
    - `mrr`: the mean of 1 / rank of the best right answer; `median_rank`: the median of that rank, which starts at 1.
    - `pool`: its size, without which none of these means anything.

    Wrong rows with the same score as a right one come before it, so collapsed features find nothing. Scores that differ
    only by rounding are the same.

    Args:
        queries, pool: features of any norm, as tensors, arrays of NumPy or lists.
        query_ids, pool_ids: what each row shows; every row of the pool with a query's id is a right answer.
        ks: numbers of candidates.
        block_size: queries at a time: memory O(block_size * pool).

    Raises:
        TypeError, ValueError: for features or ids that do not fit or are not finite, a k or block below 1, or a query
            without a right answer.

    Source: Jarvelin and Kekalainen, 2002 (NDCG, here with gains of 0 and 1); Voorhees, TREC-8, 1999 (MRR).

    >>> found = search_metrics([[1.0, 0.0]], [[1.0, 0.1], [1.0, 0.2]], [7], [3, 7], ks=(1, 2))
    >>> found["recall@1"], found["recall@2"], round(found["ndcg@2"], 4), found["median_rank"]
    (0.0, 1.0, 0.6309, 2.0)
    """
    ks = check_ks(ks)
    check_same_order(queries=queries, query_ids=query_ids)
    check_same_order(pool=pool, pool_ids=pool_ids)
    queries, pool = as_rows(queries), as_rows(pool)
    query_ids, pool_ids = checked_ids(queries, pool, query_ids, pool_ids)
    queries, pool = directions(queries, pool, block_size)
    ranks = best_ranks(queries, pool, alike(query_ids, pool_ids), block_size)
    places = 1 + ranks.double()
    found = recalls(ranks, ks) | {"mrr": (1 / places).mean().item(), "median_rank": places.quantile(0.5).item()}
    gains = _gains(queries, pool, query_ids, pool_ids, ks, block_size)
    return found | {"pool": float(len(pool))} | {f"ndcg@{k}": gain for k, gain in zip(ks, gains, strict=True)}


def recalls(ranks: Int[Tensor, " n"], ks: Sequence[int]) -> dict[str, float]:
    """Compute the recall at each k, from how many wrong rows come before the best right answer of each query.

    >>> recalls(torch.tensor([0, 3]), (1, 4))
    {'recall@1': 0.5, 'recall@4': 1.0}
    """
    return {f"recall@{k}": (ranks < k).double().mean().item() for k in ks}


def check_ks(ks: Sequence[int]) -> list[int]:
    """Return the k of recall at k, given as a list, a tuple, a range or an array.

    Raises:
        ValueError: unless they are positive integers.

    >>> check_ks(np.array([1, 5]))
    [1, 5]
    """
    given = list(ks) if np.ndim(ks) == 1 else []
    if not given or any(isinstance(k, bool) or not isinstance(k, Integral) or k < 1 for k in given):
        raise ValueError(f"`ks` must be a list of positive integers, such as [1, 5], got {ks!r}")
    return [int(k) for k in given]


def alike(query_ids: Int[Tensor, " n"], key_ids: Int[Tensor, " m"]) -> Right:
    """Return the function that tells which keys have the id of a query."""
    return lambda rows: same_ids(query_ids[rows], key_ids)


def listed(pairs: Int[Tensor, "p 2"], keys: int) -> Right:
    """Return the function that tells which keys are paired with a query, of pairs (query, key).

    >>> listed(torch.tensor([[1, 2], [0, 0]]), 3)(slice(0, 2)).int().tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    pairs = pairs[pairs[:, 0].argsort()]

    def right(rows: slice) -> Bool[Tensor, "b m"]:
        first, last = torch.searchsorted(pairs[:, 0].contiguous(), pairs.new_tensor([rows.start, rows.stop])).tolist()
        found = torch.zeros(rows.stop - rows.start, keys, dtype=torch.bool, device=pairs.device)
        found[pairs[first:last, 0] - rows.start, pairs[first:last, 1]] = True
        return found

    return right


def best_ranks(queries: Tensor, keys: Tensor, right: Right, block_size: int, name: str = "") -> Int[Tensor, " n"]:
    """Count the wrong rows that come before the best right row of each query; the counts are on the CPU.

    Raises:
        ValueError: for queries without a right row.
    """
    ranks, rounding = [], rounding_of(keys)
    for start in range(0, len(queries), block_size):
        rows = slice(start, min(start + block_size, len(queries)))
        scores, same = products(queries[rows], keys.mT), right(rows)
        best = scores.masked_fill(~same, -math.inf).amax(1)
        before = ((scores >= best[:, None] - rounding) & ~same).sum(1)
        ranks.append(torch.where(same.any(1), before, -1).cpu())
    found = torch.cat(ranks)
    if (found < 0).any():
        raise ValueError(f"{int((found < 0).sum())} queries {name}have no row with their id in the pool")
    return found


def _gains(
    queries: Tensor, keys: Tensor, query_ids: Tensor, key_ids: Tensor, ks: Sequence[int], block_size: int
) -> list[float]:
    """Compute the mean NDCG at each k."""
    deepest = min(max(ks), len(keys))
    discounts = torch.log2(torch.arange(2, deepest + 2, dtype=torch.float64)).reciprocal()
    sums = torch.zeros(len(ks), dtype=torch.float64)
    rounding = rounding_of(keys)
    for rows, ids in zip(queries.split(block_size), query_ids.split(block_size), strict=True):
        same = same_ids(ids, key_ids)
        placed = _nearest(products(rows, keys.mT), same, deepest, rounding).cpu().double() * discounts
        ideal = (torch.arange(deepest) < same.sum(1, keepdim=True).cpu()).double() * discounts
        for number, k in enumerate(ks):
            sums[number] += (placed[:, :k].sum(1) / ideal[:, :k].sum(1)).sum().item()
    return (sums / len(queries)).tolist()


def rounding_of(keys: Float[Tensor, "m d"]) -> float:
    """Return by how much scores of the same rows may differ: a product's last bits depend on its place in a block.

    >>> 1e-6 < rounding_of(torch.zeros(1, 384)) < 1e-5
    True
    """
    return math.sqrt(keys.shape[1]) * torch.finfo(keys.dtype).eps


def _nearest(
    scores: Float[Tensor, "b m"], same: Bool[Tensor, "b m"], count: int, rounding: float = 0.0
) -> Bool[Tensor, "b count"]:
    """Tell which of the nearest rows are right, with wrong ones before right ones of the same score.

    >>> _nearest(torch.tensor([[0.5, 0.9, 0.5]]), torch.tensor([[True, False, False]]), 3).int().tolist()
    [[0, 0, 1]]
    """
    scores = torch.where(same, scores - rounding, scores)
    wrong, right = (scores.masked_fill(left_out, -math.inf).topk(count).values for left_out in (same, ~same))
    order = torch.cat([wrong, right], 1).argsort(dim=1, descending=True, stable=True)[:, :count]
    is_right = torch.cat([torch.zeros_like(wrong, dtype=torch.bool), right.isfinite()], 1)
    return is_right.gather(1, order)


def directions(x: Tensor, y: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Return the unit rows of both sides in one precision, which are to be compared in blocks.

    Raises:
        ValueError: for features that are not finite, or a block below 1.
    """
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"`block_size` must be a positive number of rows, got {block_size!r}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("features with NaN or inf have no nearest neighbors; check the precision of the model")
    x, y = unit_rows(x), unit_rows(y)
    kind = torch.promote_types(x.dtype, y.dtype)
    return x.to(kind), y.to(kind)


def checked_ids(x: Any, y: Any, x_ids: Any, y_ids: Any) -> tuple[Tensor, Tensor]:
    """Return the ids of both sides as integers, after a check that their rows can be compared.

    Raises:
        ValueError: for sides without rows or of different widths, or ids that do not fit.
    """
    are_rows = (isinstance(rows, Tensor) and rows.is_floating_point() and rows.dim() == 2 for rows in (x, y))
    if not all(are_rows) or x.shape[1] != y.shape[1] or 0 in (len(x), len(y)):
        found = [tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__ for rows in (x, y)]
        raise ValueError(
            f"both sides must be floating-point matrices of one width, with rows, got shapes {found[0]} and {found[1]}"
        )
    x_ids, y_ids = (as_ids(ids, rows) for ids, rows in ((x_ids, x), (y_ids, y)))
    return x_ids, y_ids


def as_ids(ids: Any, rows: Tensor) -> Int[Tensor, " n"]:
    """Return ids as integers on the device of their rows.

    Raises:
        ValueError: unless there is one integer for each row.
    """
    try:
        found = ids if isinstance(ids, Tensor) else torch.from_numpy(np.array(_whole(np.asarray(ids))))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{len(rows)} rows need as many integer ids, got {type(ids).__name__} of other values; number them, for "
            "example with `numpy.unique(names, return_inverse=True)[1]`"
        ) from None
    if found.shape != (len(rows),) or found.is_floating_point() or found.dtype == torch.bool:
        raise ValueError(f"{len(rows)} rows need as many integer ids, got {found.dtype} of shape {tuple(found.shape)}")
    return found.to(rows.device, torch.int64)


def _whole(ids: np.ndarray) -> np.ndarray:
    """Return integers that are stored as objects, as in a table, as integers; anything else as it is."""
    if ids.dtype != object or not all(isinstance(each, Integral) for each in ids.ravel()):
        return ids
    return ids.astype(np.int64)
