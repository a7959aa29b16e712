"""Pairs and their statistics, and a Trainer that logs them, on one process or two."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from modality import ContrastiveModel, ModalityGapCallback, PairStatistics
from tests.modality.trainers import Pairs, clip, trainer

EVAL_SAMPLES = 21  # three rounds of 2 x 4, of which the last holds 5: rank 0 repeats none, rank 1 three
WIDTH = 6
STATE = ("count", "means", "scatters", "distances")


def pairs(count, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, count, WIDTH, generator=generator, dtype=torch.float64) + offset).unbind()


def collected(x, y, sizes=None, **settings):
    statistics = PairStatistics(WIDTH, **settings)
    for batch in zip(x.split(sizes or len(x)), y.split(sizes or len(y)), strict=True):
        statistics.update(*batch)
    return statistics


def assert_same(found, expected, scale=1.0):
    assert torch.equal(found.count, expected.count)
    for name in STATE[1:]:
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert (mine - theirs).abs().max() <= 1e-13 * scale * max(1, expected.num_pairs), name


def statistics_on_ranks(rank):
    x, y = pairs(30)
    own = slice(0, 20) if rank == 0 else slice(20, 30)
    reduced = collected(x[own], y[own]).reduce()
    alone = (collected(x, y) if rank == 0 else PairStatistics(WIDTH)).reduce()
    return [{name: getattr(s, name) for name in STATE} for s in (reduced, alone)]


def train(folder, **settings):
    """Evaluation at a rate of zero, so that both runs measure the same model."""
    model = ContrastiveModel(clip(seed=3))
    run = trainer(
        folder, model, eval_count=EVAL_SAMPLES, eval_strategy="steps", eval_steps=2, max_steps=2, learning_rate=0.0,
        **settings,
    )  # fmt: skip
    callback = ModalityGapCallback(run, {"probe": DataLoader(Pairs(17, 4), batch_size=4)})
    run.add_callback(callback)
    run.train()
    return callback.latest


def callback_on_ranks(folder):
    return train(f"{folder}/out", ddp_backend="gloo")
