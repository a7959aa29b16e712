"""Two gloo processes hold the statistics of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist

from collapse import neural_collapse
from tests.collapse.cases import assert_same, collected, labeled
from tests.processes import end_process, run_two, take_rank
from tests.reference import collapse_metrics as slow

STATE = ("counts", "means", "squared_deviations", "within_scatter", "norm_mean", "norm_deviation")


def share(data: slow.Labeled, rank: int) -> slow.Labeled:
    """Two thirds for rank 0, which alone sees class 1; the rest for rank 1."""
    first = (np.arange(len(data.labels)) % 3 > 0) | (data.labels == 1)
    kept = first if rank == 0 else ~first
    return slow.Labeled(data.features[kept], data.labels[kept], data.weight)


def work(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    take_rank(rank, 2, port)
    dist.init_process_group("gloo")
    data = slow.recorded(0)[0]
    reduced = collected(share(data, rank), batch=50, dtype=torch.float32).reduce()
    empty = collected(share(labeled(), 0)._replace(labels=np.full(0, 0), features=np.zeros((0, 5)))) if rank else None
    alone = (empty if rank else collected(labeled())).reduce()
    torch.save([{name: getattr(s, name) for name in STATE} for s in (reduced, alone)], f"{folder}/{rank}.pt")
    end_process()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    run_two(work, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


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
    assert neural_collapse(together, weight) == pytest.approx(neural_collapse(alone, weight), rel=1e-9)
    found = neural_collapse(together, weight)
    assert [found["nc1"], found["nc2"], found["nc3"]] == pytest.approx(expected, rel=1e-5)


def test_a_rank_without_samples_adds_nothing(ranks) -> None:
    alone = collected(labeled())
    assert_same(loaded(ranks[0][1], alone), alone, scale=10)
