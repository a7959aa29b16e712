"""Metrics of what an observer saw are in the log and in what `evaluate` returns; training does not notice."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import DataLoader

from tests.evaluation_hooks.cases import Line, Numbers, RowCallback, logged, trainer


def test_listening_logs_what_every_evaluation_saw(tmp_path) -> None:
    run = trainer(tmp_path)
    callback = RowCallback(run)
    run.add_callback(callback)
    run.train()
    assert logged(run, "eval_rows") == [10.0, 10.0] and logged(run, "eval_sum") == [45.0, 45.0]
    assert callback.latest == {"eval_rows": 10.0, "eval_sum": 45.0}
    assert not run.model._forward_hooks and callback.observer.rows == []


def test_an_evaluation_outside_of_training_is_measured_under_its_own_prefix(tmp_path) -> None:
    run = trainer(tmp_path)
    run.add_callback(RowCallback(run))
    assert run.evaluate(metric_key_prefix="final")["final_rows"] == 10.0
    assert not run.model._forward_hooks


def test_loaders_are_measured_beside_the_evaluation(tmp_path) -> None:
    run = trainer(tmp_path)
    run.add_callback(RowCallback(run, {"probe": DataLoader(Numbers(3), batch_size=2)}))
    run.train()
    assert logged(run, "probe_rows") == [3.0, 3.0] and logged(run, "eval_rows") == [10.0, 10.0]


def test_without_evaluation_loaders_are_measured_after_every_epoch(tmp_path) -> None:
    run = trainer(tmp_path, eval_strategy="no", max_steps=6)
    run.add_callback(RowCallback(run, {"probe": DataLoader(Numbers(3))}, piggyback=False))
    run.train()
    assert logged(run, "probe_rows") == [3.0] * 3 and not logged(run, "eval_rows")


def test_predictions_are_not_part_of_the_next_evaluation(tmp_path) -> None:
    run = trainer(tmp_path)
    callback = RowCallback(run)
    run.add_callback(callback)
    callback.on_train_begin()
    run.predict(Numbers(3))
    assert run.evaluate()["eval_rows"] == 10.0
    callback.on_train_end()
    assert not run.model._forward_hooks and not callback.observer.is_watching


class Drawing(Numbers):
    """Draws from Python's and torch's random states for every row."""

    def __getitem__(self, index):
        random.random(), torch.rand(())
        return super().__getitem__(index)


def test_a_pass_over_a_loader_leaves_random_states_mode_and_hooks(tmp_path) -> None:
    run = trainer(tmp_path)
    run.add_callback(RowCallback(run, {"probe": DataLoader(Drawing(3), shuffle=True)}, piggyback=False))
    run.model.train()
    before = random.getstate(), torch.get_rng_state()
    run.callback_handler.on_evaluate(run.args, run.state, run.control, {})
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert run.model.training and not run.model._forward_hooks


class Failing(Numbers):
    def __getitem__(self, index):
        raise OSError("the disk is gone")


def test_a_pass_that_fails_puts_everything_back(tmp_path) -> None:
    run = trainer(tmp_path)
    callback = RowCallback(run, {"probe": DataLoader(Failing(3))}, piggyback=False)
    run.add_callback(callback)
    run.model.train()
    with pytest.raises(OSError, match="the disk is gone"):
        run.callback_handler.on_evaluate(run.args, run.state, run.control, {})
    assert run.model.training and not run.model._forward_hooks and not callback.observer.is_watching


def test_the_model_that_the_trainer_has_at_the_time_is_measured(tmp_path) -> None:
    run = trainer(tmp_path)
    callback = RowCallback(run)
    run.add_callback(callback)
    old, run.model = run.model, Line()
    callback.on_train_begin()
    assert callback.observer.observes(run.model) and not old._forward_hooks
    callback.on_train_end()


def test_undefined_metrics_are_a_warning_and_training_goes_on(tmp_path) -> None:
    run = trainer(tmp_path)
    callback = RowCallback(run)
    callback.undefined = True
    run.add_callback(callback)
    with pytest.warns(UserWarning, match="rows of 'eval': nothing was logged: rows have no sum today"):
        run.train()
    assert run.state.global_step == 4 and callback.latest == {}


def test_an_evaluation_that_does_not_run_the_model_is_told_once(tmp_path) -> None:
    run = trainer(tmp_path)
    run.prediction_step = lambda *args, **kwargs: (torch.zeros(()), None, None)
    run.add_callback(RowCallback(run))
    with pytest.warns(UserWarning) as caught:
        run.train()
    told = [str(one.message) for one in caught if "rows of" in str(one.message)]
    assert len(told) == 1 and len(logged(run, "eval_loss")) == 2
    assert "because no row went through the Trainer's model (Line)" in told[0] and told[0].endswith("pass `loaders`")


def test_what_was_skipped_is_told_and_the_rest_logged(tmp_path) -> None:
    run = trainer(tmp_path)
    callback = RowCallback(run)
    run.add_callback(callback)
    callback.on_train_begin()
    callback.observer.rows = [-1.0]
    with pytest.warns(UserWarning, match="rows of 'eval': 1 batches had a negative row"):
        assert run.evaluate()["eval_rows"] == 11.0
    callback.on_train_end()


def test_it_needs_a_trainer_and_something_to_measure(tmp_path) -> None:
    with pytest.raises(TypeError, match=r"got a Line; create the Trainer first, then call `trainer.add_callback\(RowC"):
        RowCallback(Line())
    with pytest.raises(ValueError, match="with `piggyback=False` there is nothing to measure; pass `loaders`"):
        RowCallback(trainer(tmp_path), piggyback=False)
