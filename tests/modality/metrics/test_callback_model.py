"""The callback measures the model that the Trainer has at the time, also one that it made itself."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.utils.data import DataLoader

from modality import ContrastiveModel, ModalityGapCallback
from modality.metrics.observer import PairObserver
from tests.modality.trainers import Pairs, clip, logged, trainer


def build():
    """A model that is the same every time, and leaves the random state of a run alone."""
    with torch.random.fork_rng():
        return ContrastiveModel(clip(seed=5))


def run_with(folder, how, **settings):
    given = {"model": build()} if how == "model" else {"model_init": build}
    run = trainer(folder, **given, eval_strategy="steps", eval_steps=3, **settings)
    run.add_callback(ModalityGapCallback(run, {"probe": DataLoader(Pairs(7, 4), batch_size=4)}))
    run.train()
    return run


def gaps(metrics):
    return {name: value for name, value in metrics.items() if name.endswith(("gap", "uniformity", "recall@1"))}


def test_a_model_made_by_model_init_is_measured_as_one_that_was_passed(tmp_path) -> None:
    passed, made = (run_with(tmp_path / how, how) for how in ("model", "model_init"))
    for name in ("loss", "eval_gap", "eval_x_to_y_recall@1", "probe_gap"):
        assert logged(made, name) == logged(passed, name) and len(logged(made, name)) >= 2, name
    metrics = [gaps(run.evaluate()) for run in (passed, made)]
    assert metrics[0] == metrics[1] and {"eval_gap", "probe_gap"} <= metrics[1].keys()
    assert not made.model._forward_hooks


def test_the_best_model_is_chosen_by_a_metric_of_the_model_that_was_made(tmp_path) -> None:
    run = run_with(
        tmp_path, "model_init", save_strategy="steps", save_steps=3, load_best_model_at_end=True,
        metric_for_best_model="eval_gap", greater_is_better=False,
    )  # fmt: skip
    assert run.state.best_metric == min(logged(run, "eval_gap"))


def test_a_model_that_was_replaced_during_training_is_let_go_and_the_new_one_measured(tmp_path) -> None:
    run = trainer(tmp_path, build())
    callback = ModalityGapCallback(run)
    run.add_callback(callback)
    old, other = run.model, ContrastiveModel(clip(seed=6))
    callback.on_train_begin()
    run.model = other
    metrics = run.evaluate()
    assert not old._forward_hooks and other._forward_hooks
    callback.on_train_end()
    assert not other._forward_hooks
    alone = trainer(tmp_path, other)
    alone.add_callback(ModalityGapCallback(alone))
    assert gaps(metrics) == gaps(alone.evaluate())


def test_an_observer_keeps_no_model_but_the_one_it_observes() -> None:
    old, new = build(), build()
    observer = PairObserver(old)
    observer.attach()
    observer.point_at(new)
    assert observer.attached and new._forward_hooks and not old._forward_hooks
    gone = weakref.ref(old)
    del old
    gc.collect()
    assert gone() is None


def test_an_evaluation_that_does_not_run_the_model_is_told_once(tmp_path) -> None:
    run = trainer(tmp_path, build(), eval_strategy="steps", eval_steps=3)
    run.prediction_step = lambda *args, **kwargs: (torch.zeros(()), None, None)
    run.add_callback(ModalityGapCallback(run))
    with pytest.warns(UserWarning) as caught:
        run.train()
    told = [str(one.message) for one in caught if "modality gap" in str(one.message)]
    assert len(told) == 1 and len(logged(run, "eval_loss")) == 2
    assert "'eval': nothing was logged because fewer than two pairs went through the Trainer's model" in told[0]
    assert "(ContrastiveModel)" in told[0] and told[0].endswith("Then pass `loaders`")
