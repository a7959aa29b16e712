"""Margins of CosFace and ArcFace: their definitions, and in the loss of any model, in a Trainer too."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from collapse import NormalizedClassifier, load_normalized_classifier, normalize_classifier_
from collapse.classifier import add_angular_margin, with_margin
from tests.collapse.architectures import ARCHITECTURES
from tests.collapse.trainers import BERT, LLAMA, Sentences, logged, trainer

TOKENS = next(a for a in ARCHITECTURES if a.model == "BertForTokenClassification")
IMAGES = next(a for a in ARCHITECTURES if a.model.startswith("ViT"))
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KINDS = {"cosface": 0.35, "arcface": 0.5}
each_kind = pytest.mark.parametrize("kind", KINDS)


def by_angles(logits, labels, scale, margin, kind):
    """The definitions, sample by sample, with the angle itself."""
    lowered = logits.detach().double().clone()
    for row, label in zip(lowered, labels.tolist(), strict=True):
        if label < 0:
            continue
        angle = math.acos(max(-1.0, min(1.0, row[label].item() / scale)))
        if kind == "cosface":
            row[label] = scale * (math.cos(angle) - margin)
        elif angle + margin <= math.pi:
            row[label] = scale * math.cos(angle + margin)
        else:
            row[label] = scale * (math.cos(angle) - margin * math.sin(margin))
    return lowered


@each_kind
def test_the_margin_is_its_definition_at_every_angle(kind) -> None:
    cosines = torch.linspace(-1, 1, 41, dtype=torch.float64)
    logits = 30 * torch.stack([cosines, cosines.flip(0)], dim=1)
    labels = torch.arange(41) % 2
    labels[::7] = -100
    found = with_margin(logits, labels, 30.0, KINDS[kind], kind)
    torch.testing.assert_close(found, by_angles(logits, labels, 30.0, KINDS[kind], kind), rtol=0, atol=1e-6)
    assert torch.equal(with_margin(logits, labels, 30.0, 0.0, "cosface"), logits)


@each_kind
@pytest.mark.parametrize("labels", [torch.arange(2), torch.zeros(3, 1).long(), torch.zeros(3)])
def test_labels_that_are_not_one_class_for_each_sample_are_refused(kind, labels) -> None:
    with pytest.raises(ValueError, match=r"a margin needs the class index of each sample: logits .* shape \(3,\), got"):
        with_margin(torch.zeros(3, 4), labels, 30.0, 0.1, kind)


def test_an_angular_margin_always_lowers_the_own_logit_and_has_a_finite_gradient() -> None:
    cosines = torch.tensor([-1.0, -0.999, -0.5, 0.0, 0.5, 1.0], requires_grad=True)
    logits = 10 * torch.stack([cosines, torch.zeros(6)], dim=1)
    found = add_angular_margin(logits, torch.zeros(6).long(), 10.0, 0.5)[:, 0]
    assert (found < logits[:, 0]).all() and (found.diff() > 0).all()
    found.sum().backward()
    assert cosines.grad.isfinite().all()


def loss_by_definition(model, architecture, margin, kind):
    """Cross entropy with a margin on the logits of the evaluation mode; the tiny models have no dropout."""
    batch = architecture.batch()
    with torch.no_grad():
        logits, labels = model.eval()(**batch).logits.flatten(0, -2), batch["labels"].flatten()
    return functional.cross_entropy(by_angles(logits, labels, 4.0, margin, kind), labels)


@each_kind
@pytest.mark.parametrize("architecture", [BERT, LLAMA, TOKENS, IMAGES], ids=lambda a: a.model)
def test_a_models_own_loss_has_the_margin_in_training_alone(architecture, kind, tmp_path) -> None:
    model = architecture.build(**({} if architecture is LLAMA else QUIET))
    normalize_classifier_(model, 4.0, margin=KINDS[kind], margin_kind=kind)
    expected = loss_by_definition(model, architecture, KINDS[kind], kind)
    plain = model(**architecture.batch())
    own = functional.cross_entropy(plain.logits.flatten(0, -2), architecture.batch()["labels"].flatten())
    torch.testing.assert_close(plain.loss, own)
    trained = model.train()(**architecture.batch())
    torch.testing.assert_close(trained.loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(trained.logits, plain.logits) and trained.loss > plain.loss
    counted = model(**architecture.batch(), num_items_in_batch=torch.tensor(100)).loss
    valid = (architecture.batch()["labels"] != -100).sum()
    torch.testing.assert_close(counted.double(), expected * valid / 100, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path)
    again = load_normalized_classifier(str(tmp_path)).train()
    torch.testing.assert_close(again(**architecture.batch()).loss, trained.loss)


def test_a_margin_acts_in_a_trainer_and_leaves_its_evaluation_alone(tmp_path) -> None:
    losses = {}
    for margin in (0.0, 0.9):
        model = BERT.build(**QUIET)
        normalize_classifier_(model, 4.0, margin=margin)
        run = trainer(tmp_path, model, learning_rate=0.0, max_steps=2, gradient_accumulation_steps=2)
        run.train()
        losses[margin] = logged(run, "loss"), logged(run, "eval_loss")
    assert losses[0.9][1] == losses[0.0][1]
    model = BERT.build(**QUIET)
    normalize_classifier_(model, 4.0)
    data = Sentences(16, 1)
    with torch.no_grad():
        logits = model.eval()(input_ids=data.tokens, attention_mask=data.mask).logits
    expected = functional.cross_entropy(by_angles(logits, data.labels, 4.0, 0.9, "cosface"), data.labels)
    # Two steps of twice four of the sixteen sentences: their mean is that of the epoch.
    assert sum(losses[0.9][0]) / 2 == pytest.approx(expected.item(), abs=1e-3)
    assert sum(losses[0.9][0]) > sum(losses[0.0][0])


@each_kind
def test_a_margin_under_peft_reads_the_scale_of_the_active_head(kind) -> None:
    model = BERT.build(**QUIET)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    head = normalize_classifier_(adapted, 4.0, learnable_scale=True, margin=KINDS[kind], margin_kind=kind)
    expected = loss_by_definition(adapted, BERT, KINDS[kind], kind)
    torch.testing.assert_close(adapted.train()(**BERT.batch()).loss.double(), expected, rtol=1e-5, atol=1e-6)
    before = adapted(**BERT.batch()).loss
    with torch.no_grad():
        head.log_temperature_ratio += 1.0
    assert adapted(**BERT.batch()).loss > before
    before.backward()
    assert head.log_temperature_ratio.grad != 0


def test_a_training_batch_without_labels_is_refused_where_there_is_a_margin(tmp_path) -> None:
    model = BERT.build()
    normalize_classifier_(model, margin=0.2)
    batch = {name: value for name, value in BERT.batch().items() if name != "labels"}
    assert model.eval()(**batch).loss is None
    with pytest.raises(ValueError, match="margin of 0.2 is part of the loss, and this training batch has no `labels`"):
        model.train()(**batch)
    run = trainer(tmp_path, model, label_smoothing_factor=0.1, max_steps=1)
    with pytest.raises(ValueError, match="label smoothing and `compute_loss_func` take them away"):
        run.train()


def test_the_head_alone_takes_either_margin() -> None:
    x, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 1, -100])
    for kind, margin in KINDS.items():
        head = NormalizedClassifier(6, 3, 5.0, margin=margin, margin_kind=kind)
        expected = by_angles(head.eval()(x), labels, 5.0, margin, kind)
        torch.testing.assert_close(head.train()(x, labels).double(), expected, rtol=0, atol=1e-5)
        assert f"margin={margin}, margin_kind={kind!r}" in repr(head)
