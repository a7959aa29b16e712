"""Early stopping and balanced classes."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from tests.training import tiny
from training.errors import UsageError
from training.settings.common import RunArguments
from training.trainer.losses import balanced_weights, weighted_loss
from training.trainer.stopping import EarlyStopping


@pytest.mark.parametrize(
    ("values", "patience", "greater", "stops"),
    [
        ([3, 2, 1], 1, False, False),
        ([3, 2, 2], 1, False, True),
        ([1, 2, 3, 2.5], 2, True, False),
        ([1, 2, 3, 2.5, 2.9], 2, True, True),
        ([], 1, True, False),
    ],
)
def test_training_ends_after_so_many_evaluations_without_a_better_one(values, patience, greater, stops) -> None:
    state = TrainerState(log_history=[{"eval_loss": value} for value in values] + [{"loss": 0.0}])
    arguments, control = SimpleNamespace(metric_for_best_model="loss", greater_is_better=greater), TrainerControl()
    EarlyStopping(patience).on_evaluate(arguments, state, control)
    assert control.should_training_stop is stops


def test_a_run_ends_early_and_keeps_its_best_model(bert, reviews, finetune, tmp_path) -> None:
    """A learning rate of 0 without the step rule changes nothing, so that no evaluation is better than the first."""
    words = ["--early_stopping_patience", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1"]
    words += ["--save_strategy", "steps", "--max_steps", "9"]
    words += ["--learning_rate", "0", "--path_length", "0", "--init_batches", "0"]
    for resumed in (None, "checkpoint-3"):  # the same command once more trains no more
        status, printed = finetune(bert, reviews, *words)
        assert status == 0, printed
        found = tiny.results(tmp_path / "run")
        assert found["steps"] == 3 and found["resumed_from"] == resumed
    status, printed = finetune(bert, reviews, *words, "--metric_for_best_model", "accuracy")
    assert status == 2 and "(metric_for_best_model was 'loss' and is 'accuracy')" in printed


def trained(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "deep_lora" / "adapter_model.safetensors")


def test_the_best_model_is_found_after_the_folder_was_moved(bert, reviews, finetune, tmp_path) -> None:
    words = ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1"]
    words += ["--save_strategy", "steps", "--learning_rate", "3", "--path_length", "0"]
    words += ["--metric_for_best_model", "eval_loss"]
    assert finetune(bert, reviews, *words, output=tmp_path / "first")[0] == 0
    losses = [entry["eval_loss"] for entry in tiny.results(tmp_path / "first")["log"] if "eval_loss" in entry]
    assert len(losses) == 3 and len(set(losses)) == 3
    largest = losses[-1] == min(losses)  # which losses these are depends on the machine; the last is not to be the best
    best = 1 + losses.index(max(losses) if largest else min(losses))
    words += ["--greater_is_better", str(largest)]
    assert finetune(bert, reviews, *words)[0] == 0
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    expected = trained(moved)
    shutil.rmtree(moved / "adapter")
    status, printed = finetune(bert, reviews, *words, output=moved)
    assert status == 0 and "resumed  from checkpoint-3" in printed, printed
    assert all(torch.equal(value, expected[name]) for name, value in trained(moved).items())
    shutil.rmtree(moved.rename(tmp_path / "again") / f"checkpoint-{best}")
    status, printed = finetune(bert, reviews, *words, output=tmp_path / "again")
    assert status == 1 and f"the best model is in checkpoint-{best}, which is no longer in" in printed


def test_each_evaluation_needs_its_checkpoint() -> None:
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(UsageError, match="a checkpoint of each evaluation, but --eval_steps is 1 and --save_steps 2;"):
        RunArguments(output_dir="x", use_cpu=True, load_best_model_at_end=True, **steps)


def test_early_stopping_needs_evaluations_and_checkpoints_together() -> None:
    with pytest.raises(
        UsageError, match="--early_stopping_patience keeps the best model; it needs --eval_strategy and"
    ):
        RunArguments(output_dir="x", use_cpu=True, early_stopping_patience=1, eval_strategy="no")


def test_each_class_has_the_same_weight_whatever_its_rows() -> None:
    weights = balanced_weights({"a": 30, "b": 10, "c": 0})
    assert weights[:2].tolist() == pytest.approx([40 / 90, 40 / 30])
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, -100, 1])
    expected = torch.nn.functional.cross_entropy(logits[[0, 1, 3]], labels[[0, 1, 3]], weight=weights, reduction="sum")
    loss = weighted_loss(weights)
    assert loss({"logits": logits}, labels).item() == pytest.approx(expected.item() / 3)
    assert loss({"logits": logits}, labels, torch.tensor(6)).item() == pytest.approx(expected.item() / 6)


def test_balanced_losses_do_not_depend_on_how_batches_are_accumulated(bert, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "data.csv", label=["a"] * 32 + ["b"] * 8)
    folder = tiny.save_bert(tmp_path / "model", dropout=0.0)
    words = ["--balance_classes", "--init_batches", "0", "--max_steps", "1", "--validation_data", data]
    losses = []
    for batch, accumulated in ((40, 1), (8, 5)):
        more = ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", accumulated]
        status, printed = finetune(folder, data, *words, *more, output=tmp_path / str(batch))
        assert status == 0, printed
        losses.append(tiny.results(tmp_path / str(batch))["log"][0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0] == pytest.approx(0.693, abs=0.1)
    status, printed = finetune(
        bert, data, "--balance_classes", "--label_smoothing_factor", "0.1", output=tmp_path / "x"
    )
    assert (
        status == 2 and "--balance_classes is for classes that exclude each other, without --label_smoothing" in printed
    )
