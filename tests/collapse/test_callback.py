"""Metrics in a Trainer's log are those of the features that entered the head, at no cost to training."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from collapse import (
    ClassStatistics,
    HeadObserver,
    NeuralCollapseCallback,
    SphereRetractionCallback,
    neural_collapse,
    normalize_classifier_,
)
from collapse.metrics import nearest_center_agreement
from collapse.observer import SystematicSample
from collapse.theory import unit_rows
from deep_lora import DeepLoraConfig
from tests.collapse.architectures import LABELS
from tests.collapse.trainers import BERT, LLAMA, Sentences, logged, trainer

NAMES = {"nc1", "nc2", "nc3", "nc4", "cdnv", "feature_norm_spread"}


def batch_of(data):
    return next(iter(DataLoader(data, batch_size=len(data))))


@torch.no_grad()
def direct(model, data, normalized=False):
    """The metrics from the model's own output of its last hidden states."""
    model = model.eval()
    batch = batch_of(data)
    labels = batch.pop("labels")
    if hasattr(model, "bert"):
        features, head = model.bert(**batch).pooler_output, model.classifier
    else:
        hidden, head = model.model(**batch).last_hidden_state, model.score
        features = hidden[torch.arange(len(hidden)), batch["attention_mask"].sum(1) - 1]
    predictions = model(**batch).logits.argmax(1)
    weight = unit_rows(head.weight) if normalized else head.weight
    features = unit_rows(features) if normalized else features
    statistics = ClassStatistics(LABELS, features.shape[1])
    statistics.update(features, labels)
    agreement = nearest_center_agreement(features, predictions, statistics)
    return neural_collapse(statistics, weight=weight) | {"nc4": agreement}


@pytest.mark.parametrize("architecture", [BERT, LLAMA], ids=["encoder", "decoder"])
@pytest.mark.parametrize("normalized", [False, True])
def test_listening_to_evaluation_logs_the_metrics_of_the_pooled_features(architecture, normalized, tmp_path) -> None:
    model = architecture.build(use_cache=False) if architecture is LLAMA else architecture.build()
    if normalized:
        normalize_classifier_(model)
    run = trainer(tmp_path, model)
    callback = NeuralCollapseCallback(run)
    run.add_callback(callback)
    run.train()
    assert {name.removeprefix("eval_") for name in callback.latest} == NAMES
    expected = direct(model, run.eval_dataset, normalized)
    for name in NAMES:
        values = logged(run, f"eval_{name}")
        assert len(values) == len(logged(run, "eval_loss")) == 2
        assert values[-1] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name  # float32 features, other batches


def test_loaders_are_measured_with_every_evaluation_and_training_is_as_if_they_were_not(tmp_path) -> None:
    plain = trainer(tmp_path / "plain", BERT.build(hidden_dropout_prob=0.1))
    plain.train()
    run = trainer(tmp_path / "measured", BERT.build(hidden_dropout_prob=0.1))
    loader = DataLoader(run.train_dataset, batch_size=5, shuffle=True)
    run.add_callback(NeuralCollapseCallback(run, {"train": loader}))
    run.train()
    assert logged(run, "loss") == logged(plain, "loss")
    assert len(logged(run, "train_nc1")) == len(logged(run, "eval_nc1")) == 2
    assert logged(run, "train_nc1")[-1] == pytest.approx(direct(run.model, run.train_dataset)["nc1"], rel=1e-4)


def test_without_evaluation_loaders_are_measured_after_every_epoch(tmp_path) -> None:
    run = trainer(tmp_path, eval_strategy="no", max_steps=8)
    run.add_callback(NeuralCollapseCallback(run, {"probe": DataLoader(Sentences(9), batch_size=4)}, piggyback=False))
    run.train()
    assert len(logged(run, "probe_nc3")) == 2 and not logged(run, "eval_nc3")


def test_hooks_are_gone_after_training_and_the_mode_is_kept(tmp_path) -> None:
    run = trainer(tmp_path)
    run.add_callback(NeuralCollapseCallback(run, {"train": DataLoader(Sentences(6), batch_size=6)}))
    run.train()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in run.model.modules())


@pytest.mark.parametrize("trained", [False, True])
def test_an_evaluation_outside_training_is_measured_as_well(trained, tmp_path) -> None:
    run = trainer(tmp_path)
    run.add_callback(NeuralCollapseCallback(run, {"train": DataLoader(Sentences(6), batch_size=6)}))
    if trained:
        run.train()
    metrics = run.evaluate(metric_key_prefix="final")
    expected = direct(run.model, run.eval_dataset, normalized=False)
    assert {name: metrics[f"final_{name}"] for name in NAMES} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert "train_nc1" in metrics
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in run.model.modules())


def test_metrics_reach_tensorboard_and_can_choose_the_best_model(tmp_path) -> None:
    run = trainer(
        tmp_path, report_to="tensorboard", save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_nc1", greater_is_better=False,
    )  # fmt: skip
    run.add_callback(NeuralCollapseCallback(run))
    run.train()
    assert run.state.best_metric == min(logged(run, "eval_nc1"))
    written = list(tmp_path.rglob("events.out*"))
    tags = {tag for file in written for tag in EventAccumulator(str(file)).Reload().Tags()["scalars"]}
    assert {f"eval/{name}" for name in NAMES} <= tags


def test_a_resumed_run_logs_what_an_uninterrupted_one_does(tmp_path) -> None:
    whole = trainer(tmp_path / "whole", save_strategy="steps", save_steps=2)
    whole.add_callback(NeuralCollapseCallback(whole))
    whole.train()
    resumed = trainer(tmp_path / "resumed")
    resumed.add_callback(NeuralCollapseCallback(resumed))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert logged(resumed, "eval_nc1") == logged(whole, "eval_nc1") and len(logged(resumed, "eval_nc1")) == 2


def test_several_evaluation_sets_have_metrics_of_their_own(tmp_path) -> None:
    run = trainer(tmp_path)
    run.eval_dataset = {"a": Sentences(9, 5), "b": Sentences(9, 6)}
    run.add_callback(NeuralCollapseCallback(run))
    run.train()
    for name, data in run.eval_dataset.items():
        assert logged(run, f"eval_{name}_nc1")[-1] == pytest.approx(direct(run.model, data)["nc1"], rel=1e-4)


def test_it_works_on_adapters_with_a_normalized_head(tmp_path) -> None:
    model = BERT.build()
    normalize_classifier_(model)
    adapter = DeepLoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    run = trainer(tmp_path, get_peft_model(model, adapter))
    callback = NeuralCollapseCallback(run)
    run.add_callback(callback)
    run.add_callback(SphereRetractionCallback())
    run.train()
    expected = direct(run.model.merge_and_unload(), run.eval_dataset, normalized=True)
    assert callback.latest["eval_nc2"] == pytest.approx(expected["nc2"], rel=1e-5)
    assert callback.latest["eval_nc1"] == pytest.approx(expected["nc1"], rel=1e-3)  # merging rounds the weights


def test_retraction_keeps_class_vectors_on_the_sphere_through_training(tmp_path) -> None:
    lengths = {}
    for retract in (False, True):
        model = BERT.build()
        head = normalize_classifier_(model)
        run = trainer(tmp_path, model, eval_strategy="no", learning_rate=0.1)
        if retract:
            run.add_callback(SphereRetractionCallback())
        run.train()
        lengths[retract] = (head.weight.norm(dim=1) - 1).abs().max().item()
    assert lengths[True] < 1e-6 and lengths[False] > 1e-3


def test_label_smoothing_takes_the_labels_and_is_told(tmp_path) -> None:
    run = trainer(tmp_path, label_smoothing_factor=0.1)
    run.add_callback(NeuralCollapseCallback(run))
    with pytest.warns(UserWarning, match="came without labels.*use `loaders`"):
        run.train()
    assert not logged(run, "eval_nc1")


def test_features_that_are_not_finite_are_left_out_with_a_warning(tmp_path) -> None:
    model = BERT.build()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[3] = float("nan")  # the first token of class 0
    run = trainer(tmp_path, model, learning_rate=0.0)
    callback = NeuralCollapseCallback(run)
    run.add_callback(callback)
    with pytest.warns(UserWarning, match="batches had NaN or inf in the features"):
        run.train()
    assert callback.latest == {}


def test_one_class_has_nothing_to_collapse_and_training_goes_on(tmp_path) -> None:
    run = trainer(tmp_path, eval_count=1)
    run.add_callback(NeuralCollapseCallback(run))
    with pytest.warns(UserWarning, match="nothing was logged: neural collapse compares classes"):
        run.train()
    assert run.state.global_step == 4


def test_the_trace_mode_logs_the_quotient_and_no_samples_no_nc4(tmp_path) -> None:
    run = trainer(tmp_path)
    run.add_callback(NeuralCollapseCallback(run, within="trace", center_samples=0))
    run.train()
    assert not logged(run, "eval_nc4") and len(logged(run, "eval_nc1")) == 2


def test_training_batches_and_what_runs_outside_the_block_are_not_observed(tmp_path) -> None:
    model, batch = BERT.build(), batch_of(Sentences(4))
    observer = HeadObserver(model)
    with observer.watching():
        model.train()(**batch)
        assert observer.statistics.num_samples == 0
        model.eval()(**batch)
        assert observer.statistics.num_samples == 4
    model(**batch)
    assert observer.statistics.num_samples == 4


def test_what_was_predicted_is_not_part_of_the_next_evaluation(tmp_path) -> None:
    run = trainer(tmp_path)
    callback = NeuralCollapseCallback(run)
    run.add_callback(callback)
    callback.on_train_begin()
    run.predict(Sentences(9, 7))
    metrics = run.evaluate()
    callback.on_train_end()
    expected = direct(run.model, run.eval_dataset)
    assert {name: metrics[f"eval_{name}"] for name in NAMES} == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("count", "chunk"), [(5, 1), (100, 7), (64, 64), (1000, 3)])
def test_a_systematic_sample_is_an_even_grid_over_the_stream(count, chunk) -> None:
    sample = SystematicSample(16)
    for rows in torch.arange(float(count)).split(chunk):
        sample.add(rows)
    kept = sample.rows()
    steps = kept.diff().unique()
    assert min(count, 8) <= len(kept) <= 16 and kept[0] == 0 and len(steps) == 1 and kept[-1] + steps[0] >= count
