"""The callback measures the model that the Trainer has at the time, also one that it made itself."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from collapse import HeadObserver, NeuralCollapseCallback
from tests.collapse.trainers import BERT, Sentences, logged, trainer


def build():
    """A model that is the same every time, and leaves the random state of a run alone."""
    with torch.random.fork_rng():
        return BERT.build(seed=5)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def run_with(folder, how, **settings):
    run = trainer(folder, **{how: build() if how == "model" else build}, **settings)
    run.add_callback(NeuralCollapseCallback(run, {"train": DataLoader(Sentences(9, 4), batch_size=4)}))
    run.train()
    return run


def test_a_model_made_by_model_init_is_measured_as_one_that_was_passed(tmp_path) -> None:
    passed, made = (run_with(tmp_path / how, how) for how in ("model", "model_init"))
    for name in ("loss", "eval_nc1", "eval_nc4", "train_nc2", "train_nc3"):
        assert logged(made, name) == logged(passed, name) and len(logged(made, name)) >= 2, name
    metrics = [{name: value for name, value in run.evaluate().items() if "nc" in name} for run in (passed, made)]
    assert metrics[0] == metrics[1] and {"eval_nc1", "train_nc1"} <= metrics[1].keys()
    assert hooks(made.model) == 0


def test_every_run_of_a_trainer_measures_its_own_model(tmp_path) -> None:
    run = run_with(tmp_path, "model_init")
    first = logged(run, "eval_nc1")
    run.train()
    assert logged(run, "eval_nc1") == first and hooks(run.model) == 0


def test_the_best_model_is_chosen_by_a_metric_of_the_model_that_was_made(tmp_path) -> None:
    run = run_with(
        tmp_path, "model_init", save_strategy="steps", save_steps=2, load_best_model_at_end=True,
        metric_for_best_model="eval_nc1", greater_is_better=False,
    )  # fmt: skip
    assert run.state.best_metric == min(logged(run, "eval_nc1"))


def test_a_model_that_was_replaced_during_training_is_let_go_and_the_new_one_measured(tmp_path) -> None:
    run = trainer(tmp_path, build())
    callback = NeuralCollapseCallback(run)
    run.add_callback(callback)
    old, other = run.model, BERT.build()
    callback.on_train_begin()
    run.model = other
    metrics = run.evaluate()
    assert hooks(old) == 0 and hooks(other) > 0
    callback.on_train_end()
    assert hooks(other) == 0
    alone = trainer(tmp_path, other)
    alone.add_callback(NeuralCollapseCallback(alone))
    expected = alone.evaluate()
    assert {n: v for n, v in metrics.items() if "nc" in n} == {n: v for n, v in expected.items() if "nc" in n}


def test_an_observer_keeps_no_model_but_the_one_it_observes() -> None:
    old, new = build(), build()
    observer = HeadObserver(old)
    observer.attach()
    observer.point_at(new)
    assert observer.observes(new) and not observer.observes(old) and hooks(old) == 0
    gone = weakref.ref(old)
    del old
    gc.collect()
    assert gone() is None


def test_an_evaluation_that_does_not_run_the_model_is_told_once(tmp_path) -> None:
    run = trainer(tmp_path, build())
    run.prediction_step = lambda *args, **kwargs: (torch.zeros(()), None, None)
    run.add_callback(NeuralCollapseCallback(run))
    with pytest.warns(UserWarning) as caught:
        run.train()
    told = [str(one.message) for one in caught if "neural collapse" in str(one.message)]
    assert len(told) == 1 and len(logged(run, "eval_loss")) == 2
    assert "'eval': nothing was logged because no labeled sample went through the head" in told[0]
    assert "(BertForSequenceClassification)" in told[0] and told[0].endswith("Then pass `loaders`")
