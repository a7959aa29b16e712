"""How long a run is when nobody says it."""

from __future__ import annotations

import warnings

import pytest

from training.settings.common import RunArguments
from training.trainer.optimizer import choose_length


@pytest.mark.parametrize(
    ("rows", "settings", "epochs"),
    [
        (64, {}, 25),  # 4 batches of 16
        (64, {"gradient_accumulation_steps": 2}, 50),
        (60, {"gradient_accumulation_steps": 8}, 100),  # 4 batches, one step
        (1_000, {}, 3),
        (64, {"num_train_epochs": 2}, 2),
    ],
)
def test_a_run_of_few_samples_makes_a_hundred_steps(rows: int, settings: dict, epochs: float, tmp_path) -> None:
    run = RunArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    choose_length(run, rows)
    assert run.num_train_epochs == epochs


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 10), ({"max_steps": 30}, 3), ({"max_steps": 5}, 1), ({"max_steps": 5000}, 10), ({"logging_steps": 0.5}, 0.5)],
)
def test_a_short_run_has_ten_logs(settings: dict, expected: float, tmp_path) -> None:
    run = RunArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    choose_length(run, 64)
    assert run.logging_steps == expected


def test_a_warmup_that_never_ends_is_told(tmp_path) -> None:
    with pytest.warns(UserWarning, match="--warmup_steps 5 are no fewer than the 5 steps of the run, so the lear"):
        choose_length(RunArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=5, warmup_steps=5), 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for steps in (0, 4, 0.5):
            choose_length(RunArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=5, warmup_steps=steps), 64)
