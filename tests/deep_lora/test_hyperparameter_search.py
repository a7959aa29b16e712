"""`Trainer.hyperparameter_search`: each trial trains as a Trainer of its own with the same arguments would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import deep_lora
from deep_lora import DeepLoraCallback, DeepLoraConfig
from tests.models import bert_classifier, ids

optuna = pytest.importorskip("optuna")

USUAL = {"learning_rate": 1e-3, "num_train_epochs": 3, "max_grad_norm": 1.0, "per_device_train_batch_size": 4}
SETTINGS = [
    USUAL,
    USUAL | {"learning_rate": 0.3, "per_device_train_batch_size": 8},
    USUAL | {"max_grad_norm": 1e-3},
    USUAL,
]


def rows() -> list[dict[str, Any]]:
    return [{"input_ids": row, "labels": number % 2} for number, row in enumerate(ids(16, 7))]


def deep() -> nn.Module:
    config = DeepLoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    return get_peft_model(bert_classifier(), config)


def lora() -> nn.Module:
    return get_peft_model(bert_classifier(), LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS"))


class Ends(TrainerCallback):
    """Notes the weights at the end of each training, and breaks some off."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.broken, self.begun, self.weights = broken, -1, []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begun += 1

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.begun in self.broken:
            raise ArithmeticError("a loss that is not finite")

    def on_train_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.weights.append({name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad})


def trainer_of(make: Any, how: str, folder: Any, ends: Ends, **settings: Any) -> Trainer:
    usual = {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "eval_strategy": "epoch"}
    arguments = TrainingArguments(str(folder), seed=3, **(USUAL | usual | settings))
    callbacks = [DeepLoraCallback()] if how == "callback" else []
    trainer = Trainer(
        None, arguments, train_dataset=rows(), eval_dataset=rows(), model_init=make, callbacks=[*callbacks, ends]
    )
    if how == "prepare":
        deep_lora.prepare(trainer)
    return trainer


def check_trials(trainer: Trainer, ends: Ends, make: Any, how: str, **asked: Any) -> None:
    """Search, and compare each trial that came to its end with a run of its own."""
    left = iter(SETTINGS)
    trainer.hyperparameter_search(lambda trial: next(left), backend="optuna", n_trials=len(SETTINGS), **asked)
    complete = [settings for number, settings in enumerate(SETTINGS) if number not in ends.broken]
    for found, settings in zip(ends.weights, complete, strict=True):
        alone = Ends()
        trainer_of(make, how, trainer.args.output_dir, alone, **settings).train()
        (expected,) = alone.weights
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), (settings, name)


@pytest.mark.parametrize(("make", "how"), [(deep, "prepare"), (deep, "callback"), (lora, "prepare")])
def test_each_trial_ends_with_the_weights_of_a_run_of_its_own(make: Any, how: str, tmp_path) -> None:
    ends = Ends()
    check_trials(trainer_of(make, how, tmp_path, ends), ends, make, how)


def test_a_trial_that_breaks_off_leaves_nothing_to_the_next(tmp_path) -> None:
    ends = Ends(broken=(1,))
    check_trials(trainer_of(deep, "prepare", tmp_path, ends), ends, deep, "prepare", catch=ArithmeticError)
