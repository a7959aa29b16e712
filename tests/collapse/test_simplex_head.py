"""Heads fixed to a simplex: its definition, in training, with adapters, saved and loaded."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from collapse import (
    SimplexClassifier,
    SphereRetractionCallback,
    load_normalized_classifier,
    nc2,
    normalize_classifier_,
    normalized_class,
    simplex_vectors,
)
from tests.collapse.architectures import ARCHITECTURES
from tests.collapse.trainers import BERT, train, trainer

BART = next(a for a in ARCHITECTURES if a.model.startswith("Bart"))


@pytest.mark.parametrize(("classes", "features"), [(2, 1), (3, 2), (5, 4), (5, 17), (100, 99), (100, 128)])
def test_the_corners_are_unit_vectors_with_cosines_as_low_as_they_can_all_be(classes, features) -> None:
    corners = simplex_vectors(classes, features).double()
    expected = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1.0)
    tolerance = 4 * classes * torch.finfo(torch.float32).eps
    torch.testing.assert_close(corners @ corners.mT, expected, rtol=0, atol=tolerance)
    assert corners.sum(0).abs().max() < tolerance and nc2(corners) < tolerance
    assert torch.equal(simplex_vectors(classes, features), simplex_vectors(classes, features, seed=0))
    if features > 1:
        assert not torch.allclose(simplex_vectors(classes, features, seed=1).double(), corners, atol=1e-3)


@pytest.mark.parametrize("architecture", [BERT, BART], ids=lambda a: a.model)
def test_training_moves_the_features_and_never_the_class_vectors(architecture, tmp_path) -> None:
    model = architecture.build()
    head = normalize_classifier_(model, 4.0, simplex=True)
    assert isinstance(head, SimplexClassifier) and not list(head.parameters()) and nc2(head.weight) < 1e-5
    start, before = head.weight.clone(), model(**architecture.batch()).loss.item()
    train(model, architecture, steps=20, rate=0.02)
    assert torch.equal(head.weight, start) and model.eval()(**architecture.batch()).loss.item() < before
    model.save_pretrained(tmp_path)
    again = load_normalized_classifier(str(tmp_path))
    assert torch.equal(again(**architecture.batch()).logits, model(**architecture.batch()).logits)
    train(again, architecture)
    assert torch.equal(again.get_submodule(architecture.head).weight, start)


def test_in_a_trainer_a_retraction_leaves_the_simplex_where_it_is(tmp_path) -> None:
    model = BERT.build()
    head = normalize_classifier_(model, simplex=True, learnable_scale=True)
    run = trainer(tmp_path, model)
    run.add_callback(SphereRetractionCallback())
    run.train()
    torch.testing.assert_close(head.weight, simplex_vectors(3, 8), rtol=0, atol=1e-6)
    assert head.log_temperature_ratio != 0


@pytest.mark.parametrize("order", ["before", "after"])
def test_an_adapter_brings_the_simplex_along(order, tmp_path) -> None:
    def adapted():
        model = BERT.build()
        if order == "before":
            normalize_classifier_(model, 4.0, simplex=True)
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
        if order == "after":
            normalize_classifier_(model, 4.0, simplex=True)
        return model

    model = adapted()
    train(model.train(), BERT)
    model.save_pretrained(tmp_path)
    base = BERT.build()
    normalize_classifier_(base, 4.0, simplex=True)
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(again(**BERT.batch()).logits, model.eval()(**BERT.batch()).logits)
    assert nc2(again.base_model.model.classifier.modules_to_save["default"].weight) < 1e-5


def test_a_checkpoint_without_a_classifier_starts_at_the_simplex(tmp_path) -> None:
    BERT.build().bert.save_pretrained(tmp_path)
    config = BERT.build(num_labels=4).config
    config.normalized_classifier = {"simplex": True}
    model = normalized_class(type(BERT.build())).from_pretrained(tmp_path, config=config)
    assert torch.equal(model.classifier.weight, simplex_vectors(4, 8))
    assert not list(model.classifier.parameters())
