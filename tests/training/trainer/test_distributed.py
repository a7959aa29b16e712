"""Two gloo processes train, initialize and measure what one process does on the same global batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback, set_seed

from tests.paths import ROOT
from tests.processes import results_of_two
from tests.training import tiny
from tests.training.tiny import QUICK
from training import CONFIGS
from training.cli import main
from training.commands.finetune import TYPES, build_job
from training.runner import build_trainer, evaluate
from training.settings.parsing import parse

pytestmark = pytest.mark.slow
STEPS = 50


def words(folder: Path, batch: int, **others: object) -> list[str]:
    """A run of 8 samples a step without dropout; 21 rows to validate on, so that the last batches are uneven.

    The rank is 1, since the gradient of a fresh head with two classes has one direction that stands out of rounding.
    """
    options = {
        "model": folder / "bert", "dataset": folder / "train.csv", "validation_data": folder / "validation.csv",
        "output_dir": folder / f"run-{batch}", "max_steps": STEPS, "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch, "init_batches": 2, "learning_rate": 1e-3, "rank": 1, **others,
    }  # fmt: skip
    return [*QUICK, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


class StartingSubspaces(TrainerCallback):
    """The factors as the initialization left them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.subspaces = model, {}

    def on_step_begin(self, args, state, control, **kwargs):
        if not self.subspaces:
            named = self.model.named_parameters()
            self.subspaces = {name: p.detach().clone() for name, p in named if "_U" in name or "_V" in name}


def train(arguments: list[str]) -> dict:
    """Subspaces at the start, losses, final weights and metrics of this process."""
    job = build_job(*parse(TYPES, arguments, command="finetune", description=""))
    set_seed(0)
    model = job.task.build_model(job)
    trainer = build_trainer(job, model, {})
    start = StartingSubspaces(model)
    trainer.add_callback(start)
    trainer.train()
    return {
        "subspaces": start.subspaces,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "weights": {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
        "metrics": evaluate(job, trainer)[0]["validation"],
    }


def train_share(rank: int, folder: str) -> dict:
    return train(words(Path(folder), 4))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process and each of two processes did."""
    folder = tmp_path_factory.mktemp("distributed")
    tiny.save_bert(folder / "bert", dropout=0.0)
    tiny.save_csv(folder / "train.csv", rows=80)
    tiny.save_csv(folder / "validation.csv", rows=21, seed=9)
    ranks = results_of_two(train_share, folder)
    return train(words(folder, 8)), ranks


def test_subspaces_are_the_same_bits_on_both_ranks_and_those_of_one_process(both) -> None:
    alone, ranks = both
    assert len(alone["subspaces"]) > 10
    for name, expected in alone["subspaces"].items():
        first, second = (rank["subspaces"][name] for rank in ranks)
        assert torch.equal(first, second)
        assert torch.allclose(first @ first.mT, expected @ expected.mT, atol=1e-5)


def test_losses_and_weights_are_those_of_one_process(both) -> None:
    alone, ranks = both
    assert len(alone["losses"]) == STEPS and alone["losses"][-1] < alone["losses"][0]
    assert ranks[0]["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    for name, expected in ranks[0]["weights"].items():
        assert torch.equal(expected, ranks[1]["weights"][name])


def test_metrics_do_not_count_repeated_rows_of_an_uneven_last_batch(both) -> None:
    alone, ranks = both
    names = ("loss", "accuracy", "f1_macro")
    for rank in ranks:
        assert [rank["metrics"][name] for name in names] == pytest.approx(
            [alone["metrics"][n] for n in names], abs=1e-6
        )


def test_accelerate_launch_runs_the_command_unchanged(tmp_path) -> None:
    """The shipped configuration for two processes on the CPU."""
    tiny.save_bert(tmp_path / "bert", dropout=0.0)
    tiny.save_csv(tmp_path / "train.csv", rows=20)
    tiny.save_csv(tmp_path / "validation.csv", rows=5)
    config = str(CONFIGS / "cpu_2_processes.yaml")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", "0"]
    command = [*launch, "-m", "training", "finetune", *words(tmp_path, 4, max_steps=2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = tiny.results(tmp_path / "run-4")
    assert found["processes"] == 2 and found["status"] == "complete"
    assert main(["inspect", "--adapter", str(tmp_path / "run-4" / "adapter")]) == 0
