"""A Trainer on two gloo processes logs what one process logs, repeated samples left out."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.data import DataLoader

from collapse import NeuralCollapseCallback
from tests.collapse.trainers import BERT, Sentences, trainer
from tests.processes import results_of_two

EVAL_SAMPLES = 21  # three rounds of 2 x 4, of which the last holds 5: rank 0 repeats none, rank 1 three
PROBE_SAMPLES = 17  # rank 1's last batch is all repeats


def train(folder: str, **settings: Any) -> dict[str, float]:
    """Evaluation at a rate of zero, so that both runs measure the same model."""
    run = trainer(folder, eval_count=EVAL_SAMPLES, learning_rate=0.0, max_steps=2, model=BERT.build(seed=3), **settings)
    callback = NeuralCollapseCallback(run, {"probe": DataLoader(Sentences(PROBE_SAMPLES, 4), batch_size=4)})
    run.add_callback(callback)
    run.train()
    return callback.latest


def train_share(rank: int, folder: str) -> dict[str, float]:
    return train(f"{folder}/out", ddp_backend="gloo")


@pytest.mark.slow
def test_two_processes_log_what_one_logs(tmp_path) -> None:
    first, second = results_of_two(train_share, tmp_path)
    alone = train(str(tmp_path / "alone"))
    assert first == second
    assert {"eval_nc1", "eval_nc4", "probe_nc1", "probe_nc4"} <= set(alone)
    assert 0 < alone["eval_nc4"] < 1
    assert first == pytest.approx(alone, rel=1e-6, abs=1e-7)
