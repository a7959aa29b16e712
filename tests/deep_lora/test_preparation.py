"""`prepare(trainer)` and `DeepLoraCallback` inside a real transformers Trainer."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

import deep_lora
from deep_lora import DeepLoraCallback, DeepLoraConfig, adapted_layers
from deep_lora.optimizer.paces import TOKENS
from tests.models import adapter_tensors, bert_classifier, ids, llama
from tests.step_lengths import train_and_check_lengths

STEPS = 12


class Rows(torch.utils.data.Dataset):
    """Token ids with classes, or with themselves as the labels of a language model."""

    def __init__(self, classes: bool = True) -> None:
        self.inputs, self.classes = ids(16, 7), classes

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.inputs[index]
        return {"input_ids": row, "labels": torch.tensor(index % 2) if self.classes else row}


def classifier(seed: int = 0, **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    config = DeepLoraConfig(**({"r": 2, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"} | settings))
    return get_peft_model(bert_classifier(), config)


def causal(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(llama(), DeepLoraConfig(**({"r": 2, "target_modules": ["q_proj", "v_proj"]} | settings)))


def trainer_of(model: nn.Module, folder: Any, classes: bool = True, callbacks: Any = (), **settings: Any) -> Trainer:
    asked = {"max_steps": STEPS, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(str(folder), per_device_train_batch_size=4, seed=3, **(asked | settings))
    return Trainer(model, arguments, train_dataset=Rows(classes), callbacks=list(callbacks))


@pytest.mark.parametrize("how", ["prepare", "callback"])
def test_one_line_gives_every_step_its_length_and_prints_what_it_chose(how: str, tmp_path, capsys) -> None:
    callback = DeepLoraCallback(path=0.01)
    trainer = trainer_of(classifier(), tmp_path, callbacks=[callback] if how == "callback" else [])
    if how == "prepare":
        callback = deep_lora.prepare(trainer, path=0.01)
    guards = train_and_check_lengths(trainer, callback)
    assert guards[0] == 1.0 and all(0 < left <= 1 for left in guards) and len(guards) == STEPS
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Deep LoRA: ")]
    assert said == [
        "Deep LoRA: a path of 0.01 of the weights' norms in 12 steps, subspaces from the gradient of 4 batches, what "
        "is trained beside it at 0.001"
    ]


def test_a_rate_that_the_user_chose_is_that_of_what_is_trained_beside_the_adapter(tmp_path) -> None:
    for rate, expected in (({}, 1e-3), ({"learning_rate": 3e-4}, 3e-4)):
        trainer = trainer_of(classifier(), tmp_path, **rate)
        deep_lora.prepare(trainer)
        assert trainer.args.learning_rate == expected
    trainer = trainer_of(causal(), tmp_path, classes=False)  # nothing is trained beside it
    deep_lora.prepare(trainer)
    assert trainer.args.learning_rate == 5e-5


def test_the_adapter_ends_the_same_at_any_rate(tmp_path) -> None:
    ends = []
    for rate in (1e-5, 1e-2, 10.0):
        model = classifier(task_type=None, modules_to_save=[])  # the head stays as it is
        trainer = trainer_of(model, tmp_path, learning_rate=rate, max_steps=40)
        deep_lora.prepare(trainer)
        trainer.train()
        ends.append([layer.get_delta_weight("default") for layer in adapted_layers(trainer.model).values()])
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            assert torch.allclose(a, b, atol=0.02 * a.abs().max().item())


@pytest.mark.parametrize("make", [classifier, causal])
def test_a_run_that_is_resumed_ends_bit_for_bit_as_one_that_was_not(make: Any, tmp_path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 5, "warmup_steps": 3, "learning_rate": 1e-3}
    whole = trainer_of(make(), tmp_path, classes=make is classifier, **settings)
    deep_lora.prepare(whole)
    whole.train()
    again = trainer_of(make(), tmp_path, classes=make is classifier, **settings)
    deep_lora.prepare(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    for name, expected in adapter_tensors(whole.model).items():
        assert torch.equal(expected, adapter_tensors(again.model)[name]), name


def test_a_checkpoint_without_the_rule_is_named_and_resumed_with_a_path_of_its_own(tmp_path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 5, "optim": "sgd"}
    trainer_of(classifier(), tmp_path, **settings).train()
    again = trainer_of(classifier(), tmp_path, **settings)
    callback = deep_lora.prepare(again)
    with pytest.warns(UserWarning, match="has loaded no state of the step rule, so the adapter's path starts over"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert callback.rule is not None and callback.rule.group["step_rule_steps"] == STEPS - 5
    state = TrainerState.load_from_json(str(tmp_path / "checkpoint-12" / "trainer_state.json"))
    assert state.stateful_callbacks["DeepLoraCallback"]["attributes"]["saved_rule"] == callback.rule.saved()


def test_a_language_models_gradients_are_clipped_after_the_guard_has_heard_them(tmp_path) -> None:
    guards = []
    for limit in (1e-3, 0.0):
        trainer = trainer_of(causal(), tmp_path, classes=False, max_grad_norm=limit, optim="sgd", learning_rate=1.0)
        callback = deep_lora.prepare(trainer)
        trainer.train()
        assert callback.rule is not None and callback.rule.pace is TOKENS
        assert trainer.args.max_grad_norm == limit
        guards.append(callback.rule.guard)
    assert guards[0] == pytest.approx(guards[1], rel=0.05)


def test_peft_lora_is_trained_by_the_same_rule(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    model = get_peft_model(bert_classifier(), LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    trainer = trainer_of(model, tmp_path)
    callback = deep_lora.prepare(trainer)
    trainer.train()
    assert callback.rule is not None and callback.rule.group["step_rule_steps"] == STEPS
    assert "subspaces as they are" in capsys.readouterr().out


def test_training_again_starts_over_and_leaves_the_optimizer_as_it_was(tmp_path) -> None:
    trainer = trainer_of(classifier(), tmp_path)
    callback = deep_lora.prepare(trainer)
    for _ in range(2):
        trainer.train()
        assert callback.rule is not None and callback.rule.group["step_rule_steps"] == STEPS
        inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        hooks = [*inner._optimizer_step_pre_hooks.values(), *inner._optimizer_step_post_hooks.values()]
        assert not any(hook.__self__ is callback.rule for hook in hooks)


def test_what_cannot_be_prepared_is_named(tmp_path) -> None:
    trainer = trainer_of(classifier(), tmp_path)
    deep_lora.prepare(trainer)
    with pytest.raises(ValueError, match="the trainer has already been prepared; call `prepare` once, or pass a"):
        deep_lora.prepare(trainer)
    plain = trainer_of(bert_classifier(), tmp_path)
    with pytest.raises(ValueError, match="the model has no trained adapter of Deep LoRA or LoRA; make one with"):
        deep_lora.prepare(plain)
    with pytest.raises(ValueError, match=re.escape("needs the model and the optimizer of a Trainer; use `prepare(")):
        DeepLoraCallback().on_train_begin(trainer.args, trainer.state, trainer.control)


def test_a_run_that_broke_off_leaves_nothing_behind_for_the_next_one_of_the_same_trainer(tmp_path) -> None:
    class Breaks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                raise MemoryError

    trainer, breaks = trainer_of(classifier(), tmp_path, max_grad_norm=0.5, lr_scheduler_type="linear"), Breaks()
    callback = deep_lora.prepare(trainer, path=0.01)
    trainer.add_callback(breaks)
    with pytest.raises(MemoryError):
        trainer.train()
    trainer.remove_callback(breaks)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*more steps than")
        train_and_check_lengths(trainer, callback)
    assert callback.rule is not None and callback.rule.max_grad_norm == trainer.args.max_grad_norm == 0.5


def test_subspaces_are_taken_from_the_trainers_own_loss_and_only_of_fresh_adapters(tmp_path, capsys) -> None:
    class Own(Trainer):
        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss = model(input_ids=inputs["input_ids"]).logits.square().mean()
            return (loss, None) if return_outputs else loss

    model = classifier()
    first = {name: p.detach().clone() for name, p in adapter_tensors(model).items() if "_V" in name}
    asked = {"max_steps": STEPS, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, **asked)
    trainer = Own(model, arguments, train_dataset=Rows())
    deep_lora.prepare(trainer, num_batches=2)
    trainer.train()
    assert "subspaces from the gradient of 2 batches" in capsys.readouterr().out
    again = Own(trainer.model, arguments, train_dataset=Rows())
    deep_lora.prepare(again)
    again.train()
    assert "subspaces as they are" in capsys.readouterr().out
    now = adapter_tensors(model)
    assert all(not torch.allclose(old, now[name], atol=0.05) for name, old in first.items())


def test_a_run_warns_once_of_a_module_that_is_never_called_and_counts_it_in_its_line(tmp_path, capsys) -> None:
    base = bert_classifier()
    base.bert.idle = nn.Linear(4, 4)
    trainer = trainer_of(get_peft_model(base, DeepLoraConfig(r=2, target_modules=["query", "idle"])), tmp_path)
    deep_lora.prepare(trainer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    told = [str(one.message) for one in caught if "no gradient reached" in str(one.message)]
    assert len(told) == 1 and told[0].endswith("leave them out with `exclude_modules`: bert.idle")
    assert "subspaces of 2 of 3 modules from the gradient of 4 batches" in capsys.readouterr().out
    left_out = classifier(target_modules=["query", "value"], exclude_modules=["query"])
    assert len(adapted_layers(left_out)) == 2, "what the warning advises"
