"""Two gloo processes train and measure pairs as one process does on the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import set_seed

from tests.processes import results_of_two
from tests.training import tiny
from tests.training.tiny import QUICK
from tests.training.two_processes import command_of_two
from training.commands.contrastive import TYPES, build_job
from training.runner import build_trainer, evaluate
from training.settings.parsing import parse

pytestmark = pytest.mark.slow
STEPS = 50


def words(folder: Path, batch: int, **others: object) -> list[str]:
    """Steps of 8 pairs without dropout; 21 pairs to validate on, so that the last batches are uneven."""
    options = {
        "model": folder / "clip", "dataset": folder / "pictures-0.csv", "validation_data": folder / "pictures-1.csv",
        "output_dir": folder / f"run-{batch}", "max_steps": STEPS, "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch, "init_batches": 2, "learning_rate": 1e-3, "eval_on_start": "true",
        "rank": 2, **others,
    }  # fmt: skip
    return [*QUICK, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


def save_all(folder: Path) -> None:
    tiny.save_clip(folder / "clip")
    tiny.save_pictures(folder, rows=80)
    tiny.save_pictures(folder, rows=21, seed=1)


def train(arguments: list[str]) -> dict:
    """Losses, metrics before and after, and final weights of this process."""
    job = build_job(*parse(TYPES, arguments, command="contrastive", description=""))
    set_seed(0)
    model = job.task.build_model(job)
    trainer = build_trainer(job, model, {})
    trainer.train()
    start = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    return {
        "before": {name.removeprefix("eval_"): value for name, value in start.items()},
        "after": evaluate(job, trainer)[0]["validation"],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "weights": {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
    }


def train_share(rank: int, folder: str) -> dict:
    return train(words(Path(folder), 4))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process and each of two processes did."""
    folder = tmp_path_factory.mktemp("distributed")
    save_all(folder)
    ranks = results_of_two(train_share, folder)
    return train(words(folder, 8)), ranks


def test_losses_and_weights_are_those_of_one_process(both) -> None:
    alone, ranks = both
    assert len(alone["losses"]) == STEPS and alone["losses"][-1] < alone["losses"][0]
    assert ranks[0]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    for name, expected in ranks[0]["weights"].items():
        assert torch.equal(expected, ranks[1]["weights"][name])


def test_metrics_do_not_count_repeated_pairs_of_an_uneven_last_batch(both) -> None:
    alone, ranks = both
    for when in ("before", "after"):
        names = [name for name in alone[when] if not name.endswith(("time", "per_second"))]
        assert len(names) > 10 and alone[when]["text_to_image_pool"] == 21
        for rank in ranks:
            assert {name: rank[when][name] for name in names} == pytest.approx(
                {name: alone[when][name] for name in names}, rel=1e-6, abs=1e-6
            )


def test_the_command_runs_in_two_processes(tmp_path) -> None:
    save_all(tmp_path)
    arguments = words(tmp_path, 4, max_steps=2, chunk_size=2, swap="hard", swap_probability=0.5, schedule="linear")
    command_of_two(["contrastive", *arguments], tmp_path)
    found = tiny.results(tmp_path / "run-4")
    assert found["processes"] == 2 and found["status"] == "complete" and found["files"] == ["adapter"]
