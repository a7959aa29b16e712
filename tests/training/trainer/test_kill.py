"""A run that is killed at a random moment ends with the weights of the uninterrupted one."""

from __future__ import annotations

import pytest

from tests.training.trainer.kill_runs import run_all


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path) -> None:
    outcomes = run_all(tmp_path, kills=3, processes=1, seed=3)
    assert [one.damaged for one in outcomes] == [[], [], []]
    assert [one.difference for one in outcomes] == [0.0, 0.0, 0.0]


@pytest.mark.slow
def test_two_killed_processes_end_with_the_same_weights(tmp_path) -> None:
    (outcome,) = run_all(tmp_path, kills=1, processes=2, seed=7)
    assert outcome.damaged == [] and outcome.difference <= 1e-6


@pytest.mark.slow
def test_a_killed_contrastive_run_ends_with_the_same_bits(tmp_path) -> None:
    (outcome,) = run_all(tmp_path, kills=1, processes=1, seed=1, command="contrastive")
    assert outcome.damaged == [] and outcome.difference == 0.0
