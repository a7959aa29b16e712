"""The folder of a run: no other run is overwritten, and a disk that fails ends in a sentence about what is kept."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from tests.training import tiny
from training.cli import main
from training.errors import RunError, UsageError
from training.results.folders import is_of_writing, refuse_other_run, require_writable, saving


def test_a_file_in_the_place_of_the_folder_is_refused_and_nothing_is_made(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        UsageError, match="--output_dir got .*file/run, but .*file is a file; pass the name of a folder"
    ):
        require_writable(tmp_path / "file" / "run")
    require_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_folder_that_is_read_only_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere else
    with pytest.raises(RunError, match="run cannot be written to: .* is read-only; pass another folder"):
        require_writable(tmp_path / "run")


def test_results_of_another_run_are_not_overwritten(tmp_path) -> None:
    refuse_other_run(tmp_path, "finetune", "new")
    (tmp_path / "results.json").write_text(json.dumps({"command": "finetune", "status": "complete", "identity": "old"}))
    refuse_other_run(tmp_path, "finetune", "old")
    told = r"holds the results of another run \(finetune, with other settings or data\); pass another --output_dir, or"
    with pytest.raises(UsageError, match=told):
        refuse_other_run(tmp_path, "complete", "new")
    (tmp_path / "results.json").write_text(json.dumps({"command": "finetune", "status": "stopped", "identity": "old"}))
    refuse_other_run(tmp_path, "finetune", "new")


def test_a_finished_run_is_kept_unless_it_is_to_be_overwritten(bert, reviews, finetune, tmp_path) -> None:
    """QUICK writes no checkpoints, which would tell two runs apart."""
    assert finetune(bert, reviews)[0] == 0
    before = (tmp_path / "run" / "results.json").read_text()
    for words in (["--seed", "1"], ["--seed", "1", "--dry_run"]):
        status, printed = finetune(bert, reviews, *words)
        assert status == 2 and "holds the results of another run (finetune" in printed
        assert (tmp_path / "run" / "results.json").read_text() == before
    assert finetune(bert, reviews, "--dry_run")[0] == 0
    assert finetune(bert, reviews, "--seed", "1", "--overwrite")[0] == 0
    assert tiny.results(tmp_path / "run")["settings"]["seed"] == 1


def test_complete_keeps_other_runs_too(tmp_path, capsys) -> None:
    rows = "".join(f"u{row},f{column},{row + column}\n" for row in range(8) for column in range(6))
    (tmp_path / "data.csv").write_text("row,column,value\n" + rows)
    words = [
        "complete",
        "--data",
        str(tmp_path / "data.csv"),
        "--output_dir",
        str(tmp_path / "run"),
        "--max_epochs",
        "2",
    ]
    assert main(words) == 0
    model = tmp_path / "run" / "model.safetensors"
    before, tensors = model.read_bytes(), load_file(model)
    for more in (["--depth", "1"], ["--depth", "1", "--dry_run"]):
        assert main([*words, *more]) == 2
        assert "holds the results of another run (complete" in capsys.readouterr().err
    assert model.read_bytes() == before
    assert main(words) == 0
    again = load_file(model)  # written again: safetensors orders the header as it likes
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], tensors[name]) for name in tensors)
    assert main([*words, "--depth", "1", "--overwrite"]) == 0
    (tmp_path / "other" / "checkpoint-3").mkdir(parents=True)
    assert main([*words, "--output_dir", str(tmp_path / "other")]) == 2
    assert "holds the results of another run (another command" in capsys.readouterr().err


def test_what_tokenizers_raise_on_a_full_disk_is_one_of_writing() -> None:
    assert is_of_writing(Exception("No space left on device")) and is_of_writing(OSError(28, "No space left"))
    assert is_of_writing(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"))
    assert not is_of_writing(ValueError("x")) and not is_of_writing(RuntimeError("mat1 and mat2 cannot be multiplied"))
    with pytest.raises(ValueError, match="^x$"), saving("the model", "nothing"):
        raise ValueError("x")
    with pytest.raises(RunError, match="the model cannot be written: No space left on device; the checkpoint is kept"):
        with saving("the model", "the checkpoint is kept"):
            raise Exception("No space left on device")


@pytest.mark.parametrize("error", [Exception("No space left on device (os error 28)"), OSError(28, "No space left")])
def test_a_disk_that_is_full_at_the_very_end_leaves_the_last_checkpoint(
    error, bert, reviews, finetune, tmp_path, monkeypatch
) -> None:
    def full(*_, **__):
        raise error

    monkeypatch.setattr("training.runner.save_adapter", full)
    status, printed = finetune(bert, reviews, "--save_strategy", "steps", "--save_steps", "3")
    assert status == 1 and "is full (" in printed and "so adapter was not written; checkpoint-3 is the last" in printed
    monkeypatch.undo()
    status, printed = finetune(bert, reviews, "--save_strategy", "steps", "--save_steps", "3")
    assert status == 0 and "from checkpoint-3, which is already complete" in printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--adapter", "lora", "--adam_beta1", "2"], "the optimizer cannot be set up .*: Invalid beta parameter"),
        (["--lr_scheduler_kwargs", '{"speed": 1}'], "the schedule cannot be set up"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(words, told, bert, reviews, finetune, tmp_path) -> None:
    import re

    status, printed = finetune(bert, reviews, *words, "--dry_run")
    assert status == 2 and re.search(told, printed), printed
    assert not (tmp_path / "run").exists()
