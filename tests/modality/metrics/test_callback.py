"""Metrics in a Trainer's log are those of the embeddings it evaluated, on one process and on two."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from modality import ContrastiveModel, ModalityGapCallback, PairStatistics, Temperature, modality_gap, recall_at_k
from modality.metrics import margin
from tests.modality.metrics.cases import EVAL_SAMPLES, train
from tests.modality.trainers import Pairs, clip, logged, trainer


def direct(model, data, ids=None):
    """From the model's output for all samples at once."""
    with torch.no_grad():
        output = model.eval()(**data.batch())
    x, y = output.image_embeds, output.text_embeds
    statistics = PairStatistics(x.shape[1])
    statistics.update(x, y)
    return modality_gap(statistics) | {"margin": margin(x, y, ids=ids)} | recall_at_k(x, y, x_ids=ids)


@pytest.mark.parametrize("wrapped", [True, False])
def test_listening_to_evaluation_logs_the_metrics_of_all_pairs(wrapped, tmp_path) -> None:
    model = ContrastiveModel(clip(), temperature=Temperature(0.1)) if wrapped else clip()
    run = trainer(tmp_path, model, eval_strategy="steps", eval_steps=3)
    if not wrapped:
        collate = run.data_collator
        run.data_collator = lambda samples: collate(samples) | {"return_loss": True}
    callback = ModalityGapCallback(run)
    run.add_callback(callback)
    run.train()
    expected = direct(model, run.eval_dataset)
    assert callback.latest == pytest.approx(
        {f"eval_{name}": value for name, value in expected.items()}, rel=1e-4, abs=1e-5
    )
    for name in expected:
        assert len(logged(run, f"eval_{name}")) == len(logged(run, "eval_loss")) == 2


def test_evaluate_returns_the_metrics_and_a_best_model_may_be_chosen_by_one(tmp_path) -> None:
    run = trainer(
        tmp_path, ContrastiveModel(clip()), eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        metric_for_best_model="eval_x_to_y_recall@1", load_best_model_at_end=True,
    )  # fmt: skip
    run.add_callback(ModalityGapCallback(run))
    run.train()
    assert run.state.best_metric == max(logged(run, "eval_x_to_y_recall@1"))


def test_an_evaluation_outside_training_is_measured_as_well(tmp_path) -> None:
    run = trainer(tmp_path, ContrastiveModel(clip()))
    run.add_callback(ModalityGapCallback(run))
    metrics = run.evaluate()
    expected = direct(run.model, run.eval_dataset)
    assert {name: metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert not run.model._forward_hooks


def test_what_was_predicted_is_not_part_of_the_next_evaluation(tmp_path) -> None:
    run = trainer(tmp_path, ContrastiveModel(clip()))
    callback = ModalityGapCallback(run)
    run.add_callback(callback)
    callback.on_train_begin()
    run.predict(Pairs(9, 7))
    metrics = run.evaluate()
    callback.on_train_end()
    expected = direct(run.model, run.eval_dataset)
    assert {name: metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)


class Known(Pairs):
    """Pairs of which some are duplicates, and known to be."""

    def __init__(self, count, seed=0):
        super().__init__(count, seed)
        self.ids = torch.arange(count) % (count // 2)
        self.tokens, self.images = self.tokens[self.ids], self.images[self.ids]

    def __getitem__(self, index):
        return super().__getitem__(index) | {"ids": self.ids[index]}


def test_loaders_are_measured_with_ids_and_training_is_as_if_they_were_not(tmp_path) -> None:
    plain = trainer(tmp_path / "plain", ContrastiveModel(clip(dropout=0.2)), num_train_epochs=2, max_steps=-1)
    plain.train()
    run = trainer(tmp_path / "measured", ContrastiveModel(clip(dropout=0.2)), num_train_epochs=2, max_steps=-1)
    data = Known(12, 5)
    run.add_callback(ModalityGapCallback(run, {"probe": DataLoader(data, batch_size=5)}, pool_size=12))
    run.train()
    assert logged(run, "loss") == logged(plain, "loss")
    expected = direct(run.model, data, data.ids)
    for name, value in expected.items():
        values = logged(run, f"probe_{name}")
        assert len(values) == 2 and values[-1] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert not logged(run, "eval_gap")


def test_the_pool_holds_no_more_pairs_than_it_is_told_and_none_on_request(tmp_path) -> None:
    run = trainer(tmp_path, ContrastiveModel(clip()), eval_strategy="steps", eval_steps=6)
    callbacks = [ModalityGapCallback(run, pool_size=size) for size in (0, 7)]
    for callback in callbacks:
        run.add_callback(callback)
    run.train()
    assert "eval_margin" not in callbacks[0].latest and callbacks[0].latest["eval_gap"] > 0
    assert callbacks[1].latest["eval_x_to_y_pool"] == 7
    assert callbacks[0].latest["eval_gap"] == callbacks[1].latest["eval_gap"]


def test_a_batch_with_nan_is_named_and_left_out(tmp_path) -> None:
    run = trainer(tmp_path, ContrastiveModel(clip()), eval_strategy="steps", eval_steps=6)
    run.eval_dataset.images[0] = float("nan")
    callback = ModalityGapCallback(run)
    run.add_callback(callback)
    with pytest.warns(
        UserWarning, match="1 batches had NaN or inf, or the model returned no embeddings of two modalities"
    ):
        run.train()
    assert callback.latest["eval_x_to_y_pool"] == 6


@pytest.mark.slow
def test_two_processes_log_what_one_logs(ranks, tmp_path) -> None:
    first, second = (found["gap callback"] for found in ranks)
    alone = train(str(tmp_path / "alone"))
    assert first == second
    assert first["eval_x_to_y_pool"] == EVAL_SAMPLES and first["probe_x_to_y_pool"] == 17
    assert first == pytest.approx(alone, rel=1e-5, abs=1e-6)
