"""Retrieval between modalities, in blocks: recall at k in both directions, and the margin."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evaluation_hooks import check_same_order
from modality.metrics.ranking import (
    BLOCK_ROWS,
    alike,
    as_ids,
    best_ranks,
    check_ks,
    checked_ids,
    directions,
    listed,
    recalls,
    rounding_of,
)
from modality.rows import UNKNOWN_ID, as_rows, check_pairs, products, same_ids

REPEATED = 0.1  # share of equal rows that is no chance, as of captions that are the same


@torch.no_grad()
def recall_at_k(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    ks: Sequence[int] = (1, 5),
    *,
    x_ids: Int[Tensor, " n"] | None = None,
    y_ids: Int[Tensor, " m"] | None = None,
    pairs: Int[Tensor, "p 2"] | None = None,
    block_size: int = BLOCK_ROWS,
) -> dict[str, float]:
    """Compute the share of queries whose counterpart is among the k nearest by cosine, in both directions.

    The pool is every row of the other modality; a recall means little without its size, so that is returned too. Rows
    with other ids and the same score as the counterpart count as nearer, so collapsed features score 0. NDCG and the
    ranks themselves are in `search_metrics`, which takes one direction.

    Args:
        x, y: features of any norm, as tensors, arrays of NumPy or lists. Without ids they are pairs, row by row.
        ks: numbers of candidates.
        x_ids, y_ids: what each row shows. A query is a hit if any row with its id is among the k nearest, so several
            captions for an image, and duplicates, are right answers, not distractors. One of them suffices in two
            cases. With as many rows of x as of y these are pairs, row by row, and it holds the id of each pair; -1
            stands for an unknown one, like that of no other pair. With more captions than images `y_ids=` alone holds
            the row of the image that each caption belongs to. If as many captions as images are not pairs, pass both.
        pairs: instead of ids, the rows of x and y that belong together, as (row of x, row of y): for captions that
            belong to several images, each of which has others, too.
        block_size: queries at a time: memory O(block_size * pool).

    Returns:
        `x_to_y_recall@k` and `y_to_x_recall@k` for each k, `x_to_y_pool` and `y_to_x_pool`.

    Raises:
        TypeError, ValueError: for features that do not fit or are not finite, a k or block below 1, or a query without
            a counterpart.

    >>> recall_at_k(torch.eye(3), torch.eye(3)[[1, 0, 2]], ks=(1, 2))["x_to_y_recall@1"]
    0.3333333333333333
    """
    ks = check_ks(ks)
    check_same_order(x=x, x_ids=x_ids)
    check_same_order(y=y, y_ids=y_ids)
    if pairs is None and (x_ids is None or y_ids is None):
        check_same_order(x=x, y=y)
    without_ids = pairs is None and x_ids is None and y_ids is None
    x, y = as_rows(x), as_rows(y)
    if pairs is not None:
        linked = _checked_pairs(x, y, x_ids, y_ids, pairs)
        right = (listed(linked, len(y)), listed(linked.flip(1), len(x)))
    else:
        x_ids, y_ids = _ids(x, y, x_ids, y_ids)
        right = (alike(x_ids, y_ids), alike(y_ids, x_ids))
    x, y = directions(x, y, block_size)
    if without_ids:
        _warn_of_repeated_rows(x=x, y=y)
    found: dict[str, float] = {}
    for name, queries, keys, answers in (("x_to_y", x, y, right[0]), ("y_to_x", y, x, right[1])):
        ranks = best_ranks(queries, keys, answers, block_size, f"{name} ")
        found |= {f"{name}_{recall}": value for recall, value in recalls(ranks, ks).items()}
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

    Cosines that differ by rounding alone are the same: such a margin is 0.

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
    check_same_order(x=x, y=y)
    x, y = as_rows(x), as_rows(y)
    check_pairs(x, y)
    ids, _ = _ids(x, y, ids, None)
    x, y = directions(x, y, block_size)
    own = (x * y).sum(1)
    smallest = math.inf
    for start in range(0, len(x), block_size):
        rows = slice(start, start + block_size)
        cosines = products(x[rows], y.mT).masked_fill_(same_ids(ids[rows], ids), -math.inf)
        nearest = torch.minimum(own[rows] - cosines.amax(1), (own - cosines).amin())
        smallest = min(smallest, nearest.amin().item())
    return 0.0 if abs(smallest) <= rounding_of(y) else smallest


def _checked_pairs(x: Any, y: Any, x_ids: Any, y_ids: Any, pairs: Any) -> Int[Tensor, "p 2"]:
    """Return the rows that belong together, on the device of x.

    Raises:
        ValueError: there are ids as well, or a pair is not one of a row of x and a row of y.
    """
    if x_ids is not None or y_ids is not None:
        raise ValueError("`pairs` and ids both say which rows belong together; pass one of them")
    checked_ids(x, y, torch.arange(len(x)), torch.arange(len(y)))
    found = torch.as_tensor(pairs)
    if found.dim() != 2 or found.shape[1] != 2 or found.is_floating_point():
        raise ValueError(f"`pairs` must be integers of shape (p, 2), got {found.dtype} of shape {tuple(found.shape)}")
    if len(found) and ((found < 0).any() or (found >= found.new_tensor([len(x), len(y)])).any()):
        raise ValueError(f"`pairs` must name rows from 0 to {len(x) - 1} of x and from 0 to {len(y) - 1} of y")
    return found.to(x.device, torch.int64)


def _ids(x: Tensor, y: Tensor, x_ids: Tensor | None, y_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what each row shows. Rows without ids are pairs, or numbered by those of the other side."""
    if x_ids is not None and y_ids is not None:
        return checked_ids(x, y, x_ids, y_ids)
    given = y_ids if x_ids is None else x_ids
    unequal = isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() == y.dim() == 2 and len(x) != len(y)
    if unequal and given is not None:
        return checked_ids(x, y, *(torch.arange(len(r)) if i is None else i for r, i in ((x, x_ids), (y, y_ids))))
    if unequal and x.shape[1] == y.shape[1]:
        raise ValueError(
            f"{len(x)} rows of x and {len(y)} of y are not pairs; say what each row shows with `x_ids` and `y_ids`, or "
            "with `y_ids` alone if they are rows of x, such as the image that each caption belongs to"
        )
    check_pairs(x, y)
    ids = torch.arange(len(x), device=x.device) if given is None else _ids_of_pairs(as_ids(given, x))
    return ids, ids


def _warn_of_repeated_rows(**sides: Tensor) -> None:
    """Warn if many rows of a side are equal: each is a wrong answer as near as the right one."""
    for name, rows in sides.items():
        distinct = len({hash(row.tobytes()) for row in rows.cpu().numpy()})
        if distinct < (1 - REPEATED) * len(rows):
            warnings.warn(
                f"{name} has {distinct} distinct rows among {len(rows)}, and equal rows are wrong answers for each "
                f"other; if a row is repeated for each of its counterparts, pass what the rows show as `{name}_ids`",
                stacklevel=4,  # one is that of torch.no_grad
            )


def _ids_of_pairs(ids: Tensor) -> Tensor:
    """Renumber the ids of pairs, and give each unknown one a number of its own: a pair is like itself."""
    numbers = ids.unique(return_inverse=True)[1]
    return torch.where(ids == UNKNOWN_ID, len(ids) + torch.arange(len(ids), device=ids.device), numbers)
