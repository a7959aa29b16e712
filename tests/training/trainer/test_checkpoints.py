"""Checkpoints are complete or not there, and a run that cannot go on says why and keeps the last good one."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.training import tiny
from tests.training.tiny import QUICK
from training.cli import main
from training.trainer import checkpoints
from training.trainer import trainer as trainer_module

CONSTANT = ["--lr_scheduler_type", "constant"]  # a step too many shows in the weights
EVERY_STEP = ["--save_strategy", "steps", "--save_steps", "1", *CONSTANT]


def weights(run):
    return load_file(run / "adapter" / "deep_lora" / "adapter_model.safetensors")


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def finished(bert, tmp_path_factory):
    """A finished run with a checkpoint at each of its three steps."""
    folder = tmp_path_factory.mktemp("finished")
    data = tiny.save_csv(folder / "reviews.csv")
    words = ["--dataset", str(data), "--output_dir", str(folder / "run"), *QUICK, *EVERY_STEP]
    words += ["--save_total_limit", "5"]
    assert main(["finetune", "--model", str(bert), *words]) == 0
    return folder / "run"


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of the finished run, where the tests' own runs go."""
    return shutil.copytree(finished, tmp_path / "run")


def test_every_checkpoint_lists_what_is_in_it(trained) -> None:
    found = checkpoints.all_checkpoints(trained)
    assert [path.name for path in found] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    for path in found:
        assert checkpoints.damage(path) is None
        manifest = checkpoints.read_manifest(path)
        held = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
        assert held == {checkpoints.MANIFEST, *manifest["files"]}
        assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= held


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda path: (path / "optimizer.pt").write_bytes(b""), "optimizer.pt has 0 bytes instead of"),
        (lambda path: flip(path / "adapter_model.safetensors"), "adapter_model.safetensors has changed"),
        (lambda path: (path / checkpoints.MANIFEST).write_text("{"), "manifest.json is damaged"),
        (lambda path: (path / checkpoints.MANIFEST).unlink(), "it cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(harm, message, trained) -> None:
    harm(trained / "checkpoint-3")
    with pytest.warns(UserWarning, match=f"checkpoint-3 is not used, for {message}"):
        assert checkpoints.newest_complete(trained) == trained / "checkpoint-2"


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_resumed_run_ends_with_the_same_bits(last, bert, reviews, finetune, trained, tmp_path) -> None:
    """Dropout is on: the states of the random generators count."""
    expected, log = weights(trained), tiny.results(trained)["log"]
    for path in checkpoints.all_checkpoints(trained)[last:]:
        checkpoints._remove(path)
    status, printed = finetune(bert, reviews, *EVERY_STEP, "--save_total_limit", "5")
    assert status == 0, printed
    assert same(weights(trained), expected)
    again = tiny.results(trained)
    assert again["resumed_from"] == f"checkpoint-{last}"
    assert [entry["loss"] for entry in again["log"] if "loss" in entry] == [e["loss"] for e in log if "loss" in e]


def test_subspaces_are_not_initialized_again_on_resume(bert, reviews, finetune, trained, monkeypatch) -> None:
    import deep_lora.subspaces.callback

    def fail(*_):
        raise AssertionError("initialized again")

    monkeypatch.setattr(deep_lora.subspaces.callback, "set_subspaces_", fail)
    checkpoints._remove(trained / "checkpoint-3")
    assert finetune(bert, reviews, *EVERY_STEP)[0] == 0


def test_other_settings_do_not_go_on_with_a_run(bert, reviews, finetune, trained) -> None:
    status, printed = finetune(bert, reviews, *CONSTANT, "--learning_rate", "0.1", "--seed", "5")
    assert status == 2
    assert (
        "learning_rate was 0.001 and is 0.1, seed was 0 and is 5" in printed and "--overwrite to start over" in printed
    )
    status, printed = finetune(bert, reviews, *CONSTANT, "--lr_scheduler_kwargs", '{"power": 2}')
    assert status == 2 and "lr_scheduler_kwargs was None and is {'power': 2}" in printed
    status, printed = finetune(bert, reviews, *CONSTANT, "--learning_rate", "0.1", "--overwrite", *EVERY_STEP)
    assert status == 0 and tiny.results(trained)["resumed_from"] is None


def test_the_checkpoint_that_was_asked_for_is_taken(bert, reviews, finetune, trained) -> None:
    status, printed = finetune(bert, reviews, *CONSTANT, "--resume_from_checkpoint", trained / "checkpoint-1")
    assert status == 0 and tiny.results(trained)["resumed_from"] == "checkpoint-1", printed


def test_old_checkpoints_make_room_but_not_the_best(tmp_path) -> None:
    for step in (1, 2, 3, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    checkpoints.rotate(tmp_path, None, None)
    assert len(checkpoints.all_checkpoints(tmp_path)) == 5
    checkpoints.rotate(tmp_path, 3, "elsewhere/checkpoint-2")
    assert [path.name for path in checkpoints.all_checkpoints(tmp_path)] == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-10",
    ]


def test_load_best_model_at_end_finds_the_renamed_checkpoint(bert, reviews, finetune, tmp_path) -> None:
    words = [
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "1",
        "--load_best_model_at_end",
        "--metric_for_best_model",
        "loss",
    ]
    status, printed = finetune(bert, reviews, *EVERY_STEP, *words, "--save_total_limit", "1")
    assert status == 0, printed
    state = json.loads((checkpoints.newest_complete(tmp_path / "run") / "trainer_state.json").read_text())
    best = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert state["best_metric"] == min(best) and ".partial" not in state["best_model_checkpoint"]
    assert os.path.isdir(state["best_model_checkpoint"])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    bert, reviews, finetune, tmp_path, monkeypatch
) -> None:
    original = trainer_module.Trainer.training_step

    def spoiled(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step >= 2 else loss

    monkeypatch.setattr(trainer_module.Trainer, "training_step", spoiled)
    status, printed = finetune(bert, reviews, *EVERY_STEP)
    assert status == 1
    assert "the training loss was not finite at or before step 3 of 3 (last logged losses:" in printed
    assert "checkpoint-2 is the last good checkpoint. Lower --learning_rate" in printed
    found = tiny.results(tmp_path / "run")
    assert found["status"] == "stopped" and "not finite" in found["reason"]
    assert checkpoints.newest_complete(tmp_path / "run").name == "checkpoint-2"


def test_weights_that_are_not_finite_are_never_saved(bert, reviews, finetune, tmp_path, monkeypatch) -> None:
    """Also where every loss was finite: one weight becomes NaN in the second step, after its loss was computed."""
    original = trainer_module.Trainer.training_step

    def spoiled(self, model, *args, **kwargs):
        loss = original(self, model, *args, **kwargs)
        if self.state.global_step == 1:
            next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] = float("nan")
        assert torch.isfinite(loss)
        return loss

    monkeypatch.setattr(trainer_module.Trainer, "training_step", spoiled)
    status, printed = finetune(bert, reviews, *EVERY_STEP)
    assert status == 1 and "a trained weight was not finite at or before step 2 of 3" in printed, printed
    (kept,) = checkpoints.all_checkpoints(tmp_path / "run")
    assert kept.name == "checkpoint-1"
    assert all(tensor.isfinite().all() for tensor in load_file(kept / "adapter_model.safetensors").values())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"the disk under .* is full .* so checkpoint-2 was not written",
        ),
        (RuntimeError("No space left on device (os error 28)"), "checkpoint-1 is the last good checkpoint. Free some"),
        (
            RuntimeError("the cable was pulled"),
            "checkpoint-2 could not be written: the cable was pulled; checkpoint-1 is",
        ),
    ],
)
def test_a_disk_that_is_full_is_said_and_leaves_nothing_half_written(
    error, message, bert, reviews, finetune, tmp_path, monkeypatch
) -> None:
    import re

    original = torch.save

    def failing(content, path, *args, **kwargs):
        original(content, path, *args, **kwargs)
        if "checkpoint-2" in str(path):
            raise error

    monkeypatch.setattr(torch, "save", failing)
    status, printed = finetune(bert, reviews, *EVERY_STEP)
    assert status == 1 and re.search(message, printed), printed
    assert [path.name for path in checkpoints.all_checkpoints(tmp_path / "run")] == ["checkpoint-1"]
    monkeypatch.undo()
    assert finetune(bert, reviews, *EVERY_STEP)[0] == 0


def test_a_disk_that_is_full_at_the_end_is_said_and_the_command_goes_on_from_there(
    bert, reviews, finetune, tmp_path, monkeypatch
) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.results.exporting.save_as_lora", full)
    status, printed = finetune(bert, reviews, *EVERY_STEP)
    assert status == 1 and "so adapter was not written; checkpoint-3 is the last good checkpoint" in printed, printed
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.undo()
    assert finetune(bert, reviews, *EVERY_STEP)[0] == 0
    assert tiny.results(tmp_path / "run")["resumed_from"] == "checkpoint-3"


def test_a_run_that_is_interrupted_says_how_to_go_on(bert, reviews, monkeypatch, capsys, tmp_path) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module.Trainer, "training_step", interrupted)
    words = ["finetune", "--model", str(bert), "--dataset", str(reviews), "--output_dir", str(tmp_path / "run")]
    assert main([*words, "--max_steps", "1", "--use_cpu", "true"]) == 130
    assert "rerun the same command to resume from the last complete checkpoint" in capsys.readouterr().err
