"""Heads of many architectures: found by structure, replaced in place, trained, saved and loaded, with adapters."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

from collapse import (
    NormalizedClassifier,
    find_head,
    load_normalized_classifier,
    normalize_classifier_,
    normalized_class,
    scale_for_loss,
)
from collapse.theory import unit_rows
from deep_lora import DeepLoraConfig
from tests.collapse.architectures import ARCHITECTURES, LABELS
from tests.collapse.trainers import train

BERT, ROBERTA = ARCHITECTURES[0], ARCHITECTURES[2]
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.model)


def outputs(model, architecture):
    with torch.no_grad():
        return model.eval()(**architecture.batch())


def test_there_are_ten_architectures_of_three_kinds_with_plain_and_nested_heads() -> None:
    models = [architecture.model for architecture in ARCHITECTURES]
    assert len({architecture.config for architecture in ARCHITECTURES}) >= 10
    assert all(any(kind in model for model in models) for kind in ("Sequence", "Token", "Image"))
    assert any("." in architecture.head for architecture in ARCHITECTURES)


@each_architecture
def test_the_head_is_found_and_replaced_and_everything_else_stays(architecture) -> None:
    model = architecture.build(id2label={0: "a", 1: "b", 2: "c"})
    old, before = model.get_submodule(architecture.head), outputs(model, architecture)
    others = {name: p for name, p in model.named_parameters() if not name.startswith(architecture.head + ".")}
    found = find_head(model)
    assert found.layer == architecture.head and found.name == architecture.head.split(".")[0]
    assert find_head(model, found.name) == find_head(model, found.layer) == found
    head = normalize_classifier_(model, scale=5.0)
    assert model.get_submodule(architecture.head) is head
    after = outputs(model, architecture)
    assert after.logits.shape == before.logits.shape
    assert after.logits.abs().max() <= 5.0001 and after.loss.isfinite()
    torch.testing.assert_close(head.weight, unit_rows(old.weight), rtol=0, atol=1e-6)
    kept = {name: p for name, p in model.named_parameters() if not name.startswith(architecture.head + ".")}
    assert all(kept[name] is p for name, p in others.items()) and kept.keys() == others.keys()
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}


@each_architecture
def test_a_saved_model_comes_back_with_its_head(architecture, tmp_path) -> None:
    model = architecture.build()
    head = normalize_classifier_(model, scale=4.0, learnable_scale=True)
    nn.init.constant_(head.log_temperature_ratio, 0.25)
    model.save_pretrained(tmp_path)
    loaded = load_normalized_classifier(str(tmp_path))
    assert type(loaded).__name__ == type(model).__name__ and loaded.config.architectures == [type(model).__name__]
    assert torch.equal(outputs(loaded, architecture).logits, outputs(model, architecture).logits)


def settings_of(architecture, kind):
    sizes = {"r": 2, "target_modules": architecture.targets, "modules_to_save": [architecture.head.split(".")[0]]}
    if kind == "deep_lora":
        return DeepLoraConfig(**sizes)
    return LoraConfig(**sizes, lora_alpha=4)


def adapted(architecture, kind, order, scale=5.0):
    base = architecture.build()
    if order == "before":
        normalize_classifier_(base, scale)
    model = get_peft_model(base, settings_of(architecture, kind))
    if order == "after":
        normalize_classifier_(model, scale)
    return model


@each_architecture
@pytest.mark.parametrize("kind", ["lora", "deep_lora"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_adapters_train_the_head_and_bring_it_back(architecture, kind, order, tmp_path) -> None:
    model = adapted(architecture, kind, order)
    copies = find_head(model).copies
    assert len(copies) == 2 and all(isinstance(head, NormalizedClassifier) for head in copies.values())
    frozen, trained = sorted(copies.values(), key=lambda head: head.weight.requires_grad)
    assert not frozen.weight.requires_grad and trained.weight.requires_grad
    start = trained.weight.detach().clone()
    train(model, architecture)
    assert torch.equal(frozen.weight, start) and not torch.equal(trained.weight, start)
    model.save_pretrained(tmp_path)
    base = architecture.build()
    normalize_classifier_(base, 5.0)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(outputs(loaded, architecture).logits, outputs(model, architecture).logits)


@pytest.mark.parametrize("kind", ["lora", "deep_lora"])
def test_normalizing_before_or_after_the_adapter_is_the_same(kind) -> None:
    models = [adapted(ROBERTA, kind, order) for order in ("before", "after")]
    assert torch.equal(*(outputs(model, ROBERTA).logits for model in models))


def test_the_task_type_alone_finds_the_usual_heads_and_returns_the_one_in_use() -> None:
    model = get_peft_model(BERT.build(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    head = normalize_classifier_(model)
    assert head is model.base_model.model.classifier.modules_to_save["default"]
    assert head.scale.item() == pytest.approx(scale_for_loss(LABELS), rel=1e-6)


def test_every_adapter_has_a_head_of_its_own() -> None:
    model = adapted(BERT, "lora", "before")
    model.add_adapter("second", settings_of(BERT, "lora"))
    model.set_adapter("second")
    train(model, BERT)
    second = outputs(model, BERT).logits
    model.set_adapter("default")
    assert len(find_head(model).copies) == 3 and not torch.equal(outputs(model, BERT).logits, second)


def test_a_merged_model_keeps_its_normalized_head() -> None:
    model = adapted(BERT, "deep_lora", "after")
    train(model, BERT)
    expected = outputs(model, BERT).logits
    merged = model.merge_and_unload()
    assert isinstance(merged.classifier, NormalizedClassifier)
    # One 8 x 8 matrix product and five layers after it, in float32.
    torch.testing.assert_close(outputs(merged, BERT).logits, expected, rtol=0, atol=5e-5)


def test_saved_configurations_keep_their_keys() -> None:
    """Those of folders that were saved before the parameter was called scale."""
    model = BERT.build()
    normalize_classifier_(model, scale=3.0, learnable_scale=True)
    saved = {"temperature": 3.0, "learnable_temperature": True, "head": "classifier"}
    assert model.config.normalized_classifier == saved
    assert {"classifier.base_temperature", "classifier.log_temperature_ratio"} <= model.state_dict().keys()


def test_plain_loading_and_normalizing_again_keeps_the_scale_and_the_class_vectors(tmp_path) -> None:
    model = BERT.build()
    normalize_classifier_(model, scale=3.0)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    normalize_classifier_(loaded)
    torch.testing.assert_close(outputs(loaded, BERT).logits, outputs(model, BERT).logits, rtol=0, atol=1e-5)


def test_a_checkpoint_without_a_classifier_gets_unit_class_vectors(tmp_path) -> None:
    BERT.build().bert.save_pretrained(tmp_path)
    model = normalized_class(type(BERT.build())).from_pretrained(tmp_path, num_labels=4)
    head = model.classifier
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(4))
    assert head.scale.item() == pytest.approx(scale_for_loss(4), rel=1e-6)
    assert torch.equal(
        model.bert.embeddings.word_embeddings.weight, BERT.build().bert.embeddings.word_embeddings.weight
    )


def test_dtype_and_mode_are_kept_and_bfloat16_loads_as_bfloat16(tmp_path) -> None:
    model = BERT.build().bfloat16().train()
    head = normalize_classifier_(model, scale=8.0)
    assert head.weight.dtype == torch.bfloat16 and head.training
    model.save_pretrained(tmp_path)
    loaded = load_normalized_classifier(str(tmp_path), dtype=torch.bfloat16)
    assert loaded.classifier.weight.dtype == torch.bfloat16 and loaded.classifier.scale.item() == 8.0


def test_a_zero_row_gets_a_random_direction() -> None:
    model = BERT.build()
    nn.init.zeros_(model.classifier.weight)
    head = normalize_classifier_(model)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(LABELS))


def test_any_module_will_do_when_the_head_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    assert model[2] is not normalize_classifier_(model, 2.0, head="2") is model[2]
