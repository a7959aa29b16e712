"""Two gloo processes hold the statistics of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapse import neural_collapse
from tests.collapse.cases import assert_same, collected, labeled
from tests.processes import results_of_two
from tests.reference import collapse_metrics as slow

STATE = ("counts", "means", "squared_deviations", "within_scatter", "norm_mean", "norm_deviation")


def share(data: slow.Labeled, rank: int) -> slow.Labeled:
    """Two thirds for rank 0, which alone sees class 1; the rest for rank 1."""
    first = (np.arange(len(data.labels)) % 3 > 0) | (data.labels == 1)
    kept = first if rank == 0 else ~first
    return slow.Labeled(data.features[kept], data.labels[kept], data.weight)


def compute(rank: int, folder: str) -> list[dict]:
    data = slow.recorded(0)[0]
    reduced = collected(share(data, rank), batch=50, dtype=torch.float32).reduce()
    empty = collected(share(labeled(), 0)._replace(labels=np.full(0, 0), features=np.zeros((0, 5)))) if rank else None
    alone = (empty if rank else collected(labeled())).reduce()
    return [{name: getattr(s, name) for name in STATE} for s in (reduced, alone)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return results_of_two(compute, tmp_path_factory.mktemp("gloo"))


def test_both_ranks_end_with_the_same_bits(ranks) -> None:
    for mine, theirs in zip(*ranks, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in STATE)


def loaded(state, like):
    copy = like.reduce()
    for name in STATE:
        setattr(copy, name, state[name])
    return copy


def test_two_processes_give_what_one_gives_and_what_the_authors_recorded(ranks) -> None:
    data, expected = slow.recorded(0)
    alone = collected(data, batch=50, dtype=torch.float32)
    together = loaded(ranks[0][0], alone)
    assert_same(together, alone, scale=10, terms=10_000)
    weight = torch.tensor(data.weight)
    assert neural_collapse(together, weight=weight) == pytest.approx(neural_collapse(alone, weight=weight), rel=1e-9)
    found = neural_collapse(together, weight=weight)
    assert [found["nc1"], found["nc2"], found["nc3"]] == pytest.approx(expected, rel=1e-5)


def test_a_rank_without_samples_adds_nothing(ranks) -> None:
    alone = collected(labeled())
    assert_same(loaded(ranks[0][1], alone), alone, scale=10)
