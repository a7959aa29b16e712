"""Quality of ranked lists: NDCG, recall and average precision at k, for items that are relevant or not."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

__all__ = ["RankingMetrics", "average_precision_at_k", "ndcg_at_k", "ranking_metrics", "recall_at_k"]


class RankingMetrics(NamedTuple):
    """Means over the users who have relevant items, and how many these are."""

    ndcg: float
    recall: float
    map: float
    users: int


def ranking_metrics(recommended: Sequence[Any], relevant: Sequence[Collection[Any]], k: int = 10) -> RankingMetrics:
    """Return NDCG@k, recall@k and MAP@k of ranked lists, averaged over the users who have relevant items.

    Args:
        recommended: for each user a list of at least k distinct items, best first, such as
            `model.recommend(users, k).items`; a shorter list counts as one that is cut off.
        relevant: for each user the items of the test set that they like.
        k: how many items of each list count.

    Raises:
        ValueError: if the two are not lists of equal length, k is not a positive integer, a list names an item twice,
            no user has a relevant item, a user's items are not a collection of ids, or ids are text on one side and
            numbers on the other.

    >>> ranking_metrics([["a", "b", "c"], ["a", "b", "c"]], [{"a"}, {"b", "c"}], k=1)
    RankingMetrics(ndcg=0.5, recall=0.5, map=0.5, users=2)
    """
    if isinstance(recommended, Mapping) or isinstance(relevant, Mapping):
        raise ValueError(
            "recommended and relevant must be lists with an entry for each user, in the same order; take those "
            "out of a dictionary by [lists[user] for user in users]"
        )
    recommended, relevant = _rows(recommended), _rows(relevant)
    if len(recommended) != len(relevant):
        raise ValueError(
            f"there are {len(recommended)} lists of recommended items and {len(relevant)} of relevant ones; pass one "
            "of each for every user"
        )
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k must be an integer of at least 1, got {k!r}")
    recommended, wanted = _read(recommended, relevant)
    asked = [place for place, items in enumerate(wanted) if items]
    if not asked:
        raise ValueError("no user has a relevant item, so there is nothing to find; check the ids of the test set")
    hits = np.zeros((len(asked), k), dtype=bool)
    for row, place in enumerate(asked):
        listed = recommended[place][:k]
        if len(set(listed)) < len(listed):
            raise ValueError(f"list {place} names an item twice among its first {k}; pass distinct items")
        hits[row, : len(listed)] = [item in wanted[place] for item in listed]
    counts = np.array([len(wanted[place]) for place in asked])
    ndcg, recall, precision = (
        float(metric(hits, counts).mean()) for metric in (ndcg_at_k, recall_at_k, average_precision_at_k)
    )
    return RankingMetrics(ndcg, recall, precision, len(asked))


def _rows(lists: Any) -> list[Any]:
    """Return what there is for each user; a table would give the names of its columns, a Series go by its index."""
    return list(lists.to_numpy() if hasattr(lists, "to_numpy") else lists)


def _ids(items: Any) -> list[Any]:
    """Return the ids of items as Python has them: those of arrays and tensors are not equal to each other.

    >>> _ids(np.array([3, 1]))
    [3, 1]
    """
    found = [item.item() if hasattr(item, "item") else item for item in _rows(items)]
    for item in found:
        if isinstance(item, bool) or not isinstance(item, Hashable):
            raise ValueError(
                f"items are told by their ids, integers or text, got {item!r} among them; of a mask pass "
                "`numpy.flatnonzero(mask)`"
            )
    return found


def _read(recommended: list[Any], relevant: list[Any]) -> tuple[list[list[Any]], list[set[Any]]]:
    """Return the ids on both sides, after a check that recommended items can be equal to relevant ones."""
    for items in relevant:
        if isinstance(items, str) or not isinstance(items, Iterable):
            raise ValueError(f"relevant needs a collection of items for each user, got {items!r}; pass {{{items!r}}}")
    listed, wanted = ([_ids(items) for items in lists] for lists in (recommended, relevant))
    kinds = [
        {"text" if isinstance(item, str) else "numbers" for items in lists for item in items}
        for lists in (listed, wanted)
    ]
    if all(kinds) and (lost := kinds[1] - kinds[0]):
        raise ValueError(
            f"recommended items are {kinds[0].pop()}, and relevant ones {lost.pop()}, so none is found; pass ids of "
            "one kind"
        )
    return listed, [set(items) for items in wanted]


def ndcg_at_k(hits: Bool[ndarray, "users k"], relevant: Int[ndarray, " users"]) -> Float[ndarray, " users"]:
    """Return the discounted gain `sum_i hit_i / log2(i + 1)`, i from 1, over the largest that the relevant items allow.

    Args:
        hits: whether the i-th item of each list is relevant.
        relevant: how many relevant items each user has, at least 1.

    Source: Jarvelin and Kekalainen, ACM TOIS 2002; equal to `sklearn.metrics.ndcg_score`.

    >>> ndcg_at_k(np.array([[True, False]]), np.array([1]))
    array([1.])
    """
    discounts = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    return hits @ discounts / np.cumsum(discounts)[np.minimum(relevant, hits.shape[1]) - 1]


def recall_at_k(hits: Bool[ndarray, "users k"], relevant: Int[ndarray, " users"]) -> Float[ndarray, " users"]:
    """Return the share of all relevant items that is among the first k.

    >>> recall_at_k(np.array([[True, False]]), np.array([4]))
    array([0.25])
    """
    return hits.sum(1) / relevant


def average_precision_at_k(
    hits: Bool[ndarray, "users k"], relevant: Int[ndarray, " users"]
) -> Float[ndarray, " users"]:
    """Return the precision at each hit, summed, over the number of hits that were possible: `min(k, relevant)`.

    Its mean over users is MAP@k. With k as long as the list it is `sklearn.metrics.average_precision_score`.

    >>> average_precision_at_k(np.array([[False, True]]), np.array([1]))
    array([0.5])
    """
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(1) / np.minimum(relevant, hits.shape[1])
