"""Which rows are held out and which are used: by chance, with a share of each class, and none of a class taken away."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

Names = Sequence[Sequence[str]]  # of the classes of each row: one, several (tags), or none


def held_out_rows(names: Names, count: int, seed: int) -> np.ndarray:
    """Choose rows to validate on; of every class at least one row stays.

    Where each row has one class, as large a share of each class is chosen. Where this leaves fewer rows, there are
    fewer; the numbers are sorted.

    >>> held_out_rows([["a"], ["a"], ["b"], ["a"], ["a"]], 2, seed=0)
    array([3, 4])
    """
    order = np.random.default_rng(seed).permutation(len(names))
    if names and all(len(row) == 1 for row in names):
        rows = _rows_of(names, order)
        return _of_each(rows, _shares([len(held) for held in rows.values()], count, spared=1))
    left = Counter(name for row in names for name in set(row))
    chosen: list[int] = []
    for row in order:
        own = set(names[row])
        if len(chosen) < count and all(left[name] > 1 for name in own):
            left.subtract(own)
            chosen.append(int(row))
    return np.sort(np.asarray(chosen, dtype=np.int64))


def held_out_groups(groups: Sequence[Hashable], count: int, seed: int) -> np.ndarray:
    """Choose rows to validate on, whole groups of them, such as the captions of a picture; one group at least stays.

    There are as many as asked for, or up to a group more. The numbers are sorted.

    >>> held_out_groups(["a", "b", "b", "c"], 2, seed=1)
    array([0, 1, 2])
    """
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    order = np.random.default_rng(seed).permutation(len(groups))
    chosen: list[int] = []
    for group in list(dict.fromkeys(groups[row] for row in order))[: len(rows) - 1]:
        if len(chosen) < count:
            chosen += rows[group]
    return np.sort(np.asarray(chosen, dtype=np.int64))


def drawn_rows(names: Names, count: int, seed: int) -> np.ndarray:
    """Choose rows to train on, in a random order; where each row has one class, with a share of each class.

    No class is left out, if there are as many rows as classes.
    """
    order = np.random.default_rng(seed).permutation(len(names))
    rows = _rows_of(names, order) if names and all(len(row) == 1 for row in names) else {}
    if not rows or count < len(rows):
        return order[:count]
    shares = _shares([len(held) for held in rows.values()], count, spared=0)
    for place in [place for place, number in enumerate(shares) if not number]:
        shares[shares.index(max(shares))] -= 1
        shares[place] = 1
    chosen = set(_of_each(rows, shares).tolist())
    return np.asarray([row for row in order if int(row) in chosen], dtype=np.int64)


def rows_per_class(names: Names, count: int, seed: int) -> np.ndarray:
    """Choose so many rows of each class, or all that there are; in a random order."""
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = set(_of_each(rows := _rows_of(names, order), [count] * len(rows)).tolist())
    return np.asarray([row for row in order if int(row) in chosen], dtype=np.int64)


def _rows_of(names: Names, order: np.ndarray) -> dict[str, list[int]]:
    """Return the rows of each class, in this order."""
    rows = defaultdict(list)
    for row in order:
        rows[names[row][0]].append(int(row))
    return dict(sorted(rows.items()))


def _of_each(rows: dict[str, list[int]], numbers: Sequence[int]) -> np.ndarray:
    chosen = [row for held, number in zip(rows.values(), numbers, strict=True) for row in held[:number]]
    return np.sort(np.asarray(chosen, dtype=np.int64))


def _shares(sizes: Sequence[int], count: int, spared: int) -> list[int]:
    """Split a count over classes by their sizes, by largest remainders; so many of each class are spared."""
    total = max(sum(sizes), 1)
    limits = [max(0, size - spared) for size in sizes]
    wanted = [count * size / total for size in sizes]
    shares = [min(limit, int(want)) for limit, want in zip(limits, wanted, strict=True)]
    while sum(shares) < min(count, sum(limits)):
        open_ = [place for place, limit in enumerate(limits) if shares[place] < limit]
        shares[max(open_, key=lambda place: (wanted[place] - shares[place], -place))] += 1
    return shares
