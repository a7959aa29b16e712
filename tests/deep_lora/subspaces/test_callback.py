"""`SubspaceInitializationCallback` inside a real transformers Trainer."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from deep_lora import SubspaceInitializationCallback, initialize_subspaces_
from tests.models import adapt, adapter_tensors, ids, layers_of

EXAMPLES, BATCH = 12, 2


class Examples(torch.utils.data.Dataset):
    def __init__(self, count=EXAMPLES, labeled=True):
        self.inputs = ids(count, 7)
        self.labeled = labeled

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        label = {"labels": torch.tensor(index % 2)} if self.labeled else {}
        return {"input_ids": self.inputs[index], **label}


def base(dropout=0.0):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=41, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def model(dropout=0.0, **settings):
    return adapt(base(dropout), target_modules=["query", "value"], **({"r": 4} | settings))


class Watch(TrainerCallback):
    """The batches of training, as the model sees them, and the random states around them."""

    def __init__(self, watched):
        self.batches, self.states, self.training = [], [], False
        watched.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module, args, kwargs):
        if self.training:
            self.batches.append(kwargs["input_ids"].tolist())

    def on_step_begin(self, *args, **kwargs):
        self.training = True
        self.states.append((torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()))

    def on_step_end(self, *args, **kwargs):
        self.training = False


def run(folder, callbacks=(), net=None, data=None, resume=None, **settings):
    net = model() if net is None else net
    watch = Watch(net)
    defaults = {"max_steps": 8, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(str(folder), per_device_train_batch_size=BATCH, seed=7, **(defaults | settings))
    trainer = Trainer(net, arguments, train_dataset=data or Examples(), callbacks=[*callbacks, watch])
    trainer.train(resume_from_checkpoint=resume)
    return watch, trainer


def bases(net):
    return {name: t.detach().clone() for name, t in adapter_tensors(net).items() if "core" not in name}


class Catch(TrainerCallback):
    """The bases when training begins, after the callback before this one."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.bases = bases(model)


@pytest.mark.parametrize(("rank", "options"), [(4, {}), (3, {}), (4, {"sides": "both"}), (3, {"sides": "right"})])
def test_it_sets_the_bases_from_the_first_batches_of_training(rank, options, tmp_path):
    callback, catch = SubspaceInitializationCallback(num_batches=2, seed=5, **options), Catch()
    net = model(r=rank)
    start = bases(net)
    watch, _ = run(tmp_path, [callback, catch], net)
    assert len(callback.report.initialized) == len(layers_of(net)) == 2
    assert all(not torch.equal(catch.bases[name], start[name]) for name in start)

    reference = model(r=rank)
    inputs = [torch.tensor(batch) for batch in watch.batches[:2]]
    rows = {tuple(row.tolist()): index % 2 for index, row in enumerate(Examples().inputs)}

    def closure():
        for batch in inputs:
            labels = torch.tensor([rows[tuple(row.tolist())] for row in batch])
            reference(input_ids=batch, labels=labels).loss.backward()

    initialize_subspaces_(reference, closure, seed=5, **options)
    for name, tensor in bases(reference).items():
        # The same numbers summed in the same order; kernels may still differ in the last bits.
        assert torch.allclose(catch.bases[name], tensor, atol=1e-5), name


@pytest.mark.parametrize("workers", [0, 1])
def test_data_order_and_random_states_are_as_without_it(tmp_path, workers):
    settings = {"dataloader_num_workers": workers, "max_steps": 8 if workers == 0 else 3}
    with_it, _ = run(tmp_path, [SubspaceInitializationCallback(num_batches=3)], model(dropout=0.1), **settings)
    without, _ = run(tmp_path, [], model(dropout=0.1), **settings)
    assert len(with_it.batches) == settings["max_steps"]  # eight steps: more than one epoch
    assert with_it.batches == without.batches
    assert with_it.states == without.states


def test_gradient_accumulation_steps_stay_in_step(tmp_path):
    settings = {"gradient_accumulation_steps": 2, "max_steps": 3}
    with_it, _ = run(tmp_path, [SubspaceInitializationCallback(num_batches=3)], **settings)
    without, _ = run(tmp_path, [], **settings)
    assert with_it.batches == without.batches and len(with_it.batches) == 6


def test_training_itself_is_as_after_an_initialisation_by_hand(tmp_path):
    """The optimizer, the gradients and the schedule start as they would without the callback."""
    caught = Catch()
    first = model()
    run(tmp_path, [SubspaceInitializationCallback(num_batches=2), caught], first)
    second = model()
    second.load_state_dict(caught.bases, strict=False)
    run(tmp_path, [], second)
    for a, b in zip(adapter_tensors(first).values(), adapter_tensors(second).values(), strict=True):
        assert torch.equal(a, b)


def test_it_does_nothing_on_resume(tmp_path):
    run(tmp_path, [SubspaceInitializationCallback(num_batches=2)], save_strategy="steps", save_steps=4, max_steps=4)
    net, callback, catch = model(), SubspaceInitializationCallback(num_batches=2), Catch()
    watch, trainer = run(tmp_path, [callback, catch], net, resume=str(tmp_path / "checkpoint-4"))
    assert callback.report is None and trainer.state.global_step == 8 and len(watch.batches) == 4
    saved = model()
    saved.load_adapter(str(tmp_path / "checkpoint-4"), "default")
    for name, tensor in bases(saved).items():
        assert torch.equal(catch.bases[name], tensor)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole, uncut = run(tmp_path / "whole", [SubspaceInitializationCallback(num_batches=2)])
    run(tmp_path / "cut", [SubspaceInitializationCallback(num_batches=2)], save_strategy="steps", save_steps=4)
    checkpoint = str(tmp_path / "cut" / "checkpoint-4")
    rest, resumed = run(tmp_path / "cut", [SubspaceInitializationCallback(num_batches=2)], resume=checkpoint)
    assert rest.batches == whole.batches[4:]
    for a, b in zip(adapter_tensors(uncut.model).values(), adapter_tensors(resumed.model).values(), strict=True):
        assert torch.equal(a, b)


KEPT = r"adapter 'default' was trained before \(2 of 2 modules .* new ones would destroy .* Leave the callback out"


@pytest.mark.parametrize("settings", [{}, {"subtract_start": False, "init_scale": 0.3}, {"r": 1}], ids=str)
def test_a_second_training_goes_on_with_the_subspaces_of_the_first(settings, tmp_path):
    net, callback, catch = model(**settings), SubspaceInitializationCallback(num_batches=2), Catch()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="adapter 'default' was trained")
        _, trainer = run(tmp_path, [callback, catch], net, max_steps=1)
    first, after = callback.report, bases(net)
    assert len(first.initialized) == 2
    with pytest.warns(UserWarning, match=KEPT):
        trainer.train()
    assert all(torch.equal(catch.bases[name], after[name]) for name in after)
    assert callback.report is first


def test_an_adapter_that_was_trained_and_loaded_keeps_its_subspaces(tmp_path):
    net, catch = model(), Catch()
    run(tmp_path, [SubspaceInitializationCallback(num_batches=2)], net, max_steps=2)
    net.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(base(), str(tmp_path / "adapter"), is_trainable=True)
    callback = SubspaceInitializationCallback(num_batches=2)
    with pytest.warns(UserWarning, match=KEPT):
        run(tmp_path, [callback, catch], loaded, max_steps=1)
    assert callback.report is None
    assert all(torch.equal(catch.bases[name], tensor) for name, tensor in bases(net).items())


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("subtract_start", [True, False])
def test_a_fresh_adapter_in_half_precision_that_was_saved_and_loaded_is_initialised(subtract_start, autocast, tmp_path):
    settings = {"target_modules": ["query"], "subtract_start": subtract_start, "init_scale": 0.3}
    net = adapt(base().to(torch.bfloat16), autocast_adapter_dtype=autocast, **settings)
    net.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(base(), str(tmp_path / "adapter"), is_trainable=True)
    callback = SubspaceInitializationCallback(num_batches=1)
    run(tmp_path, [callback], loaded, max_steps=1)
    assert len(callback.report.initialized) == 1


def test_a_model_that_returns_no_loss_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"returned no loss for a batch with \['input_ids'\]; the batches need labels"):
        run(tmp_path, [SubspaceInitializationCallback()], data=Examples(labeled=False), remove_unused_columns=False)


def test_a_dataloader_shorter_than_num_batches_is_used_whole(tmp_path):
    callback = SubspaceInitializationCallback(num_batches=100)
    watch, _ = run(tmp_path, [callback], data=Examples(count=5), max_steps=4)
    without, _ = run(tmp_path, [], data=Examples(count=5), max_steps=4)
    assert len(callback.report.initialized) == 2 and watch.batches == without.batches


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4", None])
def test_num_batches_must_be_a_positive_integer(value):
    with pytest.raises(ValueError, match="`num_batches` must be a positive integer, got"):
        SubspaceInitializationCallback(num_batches=value)


def test_outside_of_a_trainer_it_says_what_it_needs():
    with pytest.raises(ValueError, match=r"add it to `Trainer\(callbacks=\)`"):
        SubspaceInitializationCallback().on_train_begin(None, type("State", (), {"global_step": 0})(), None)
