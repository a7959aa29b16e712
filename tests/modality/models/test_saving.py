"""What comes back from a folder beside the weights: reparameterized temperatures, and what was trained."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import CLIPModel

from modality import (
    ContrastiveModel,
    DualEncoder,
    Temperature,
    find_temperature,
    reparameterize_logit_scale_,
    temperature_parameter_groups,
)
from tests.modality.trainers import WIDTH, Pairs, bert, clip, siglip, trainer

MODES = [("softplus", 1.0), ("exp", 1.0), ("exp", 10.0)]
ORDERS = {
    "plain": lambda mode, scale: reparameterize_logit_scale_(clip(), mode, scale=scale),
    "then PEFT": lambda mode, scale: lora(reparameterize_logit_scale_(clip(), mode, scale=scale)),
    "after PEFT": lambda mode, scale: reparameterize_logit_scale_(lora(clip()), mode, scale=scale),
}


def lora(model, **settings):
    config = LoraConfig(r=2, target_modules=["q_proj", "query"], init_lora_weights=False, **settings)
    return get_peft_model(model, config)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def nu_of(model):
    (name,) = (name for name, _ in model.named_parameters() if "parametrizations.logit_scale" in name)
    return model.get_parameter(name)


@pytest.mark.parametrize(("mode", "scale"), MODES)
@pytest.mark.parametrize("build", ORDERS.values(), ids=ORDERS.keys())
def test_a_reparameterized_model_comes_back_reparameterized_bit_for_bit(build, mode, scale, tmp_path) -> None:
    model = ContrastiveModel(build(mode, scale)).eval()
    with torch.no_grad():
        nu_of(model).add_(0.37)  # a value that goes through neither map unrounded
    model.save_pretrained(tmp_path)
    again = ContrastiveModel.from_pretrained(tmp_path)
    batch = Pairs(4).batch()
    assert torch.equal(nu_of(again), nu_of(model)) and torch.equal(again(**batch).logits, model(**batch).logits)
    assert trained(again) == trained(model) and any("parametrizations" in name for name in trained(again))
    slopes = []
    for one in (model, again):
        one(**batch).loss.backward()
        slopes.append(nu_of(one).grad)
    assert torch.equal(*slopes)  # the same map, not only the same value
    given = ContrastiveModel.from_pretrained(tmp_path, model=build(mode, scale))
    assert torch.equal(given(**batch).logits, model(**batch).logits)


def test_a_reparameterized_model_that_was_passed_and_learns_in_another_way_is_refused(tmp_path) -> None:
    ContrastiveModel(reparameterize_logit_scale_(clip(), "exp", scale=2.0)).save_pretrained(tmp_path)
    other = reparameterize_logit_scale_(clip(), "softplus")
    with pytest.raises(ValueError, match=r"'model.logit_scale' is reparameterized with .*'exp'.*'softplus'.*pass a pl"):
        ContrastiveModel.from_pretrained(tmp_path, model=other)


def test_a_temperature_replaces_a_reparameterized_logit_scale_as_it_does_a_plain_one(tmp_path) -> None:
    clip_model = reparameterize_logit_scale_(clip(), "softplus")
    model = ContrastiveModel(clip_model, temperature=Temperature(0.03))
    assert not any("logit_scale" in name for name in trained(model))
    model.save_pretrained(tmp_path / "all")
    clip_model.save_pretrained(tmp_path / "clip")
    assert CLIPModel.from_pretrained(tmp_path / "clip").logit_scale.exp().item() == pytest.approx(1 / 0.03, rel=1e-5)


UNDER_PEFT = {
    "clip": (clip, {}, ["logit_scale"]),
    "siglip": (siglip, {"loss": "sigmoid"}, ["logit_scale", "logit_bias"]),
    "siglip with a temperature": (siglip, {"loss": "sigmoid", "temperature": Temperature(0.1)}, ["logit_bias"]),
    "siglip, contrastive": (siglip, {}, ["logit_scale"]),
}


@pytest.mark.parametrize(("build", "settings", "names"), UNDER_PEFT.values(), ids=UNDER_PEFT.keys())
def test_under_peft_the_scale_and_bias_of_the_loss_are_trained_and_saved(build, settings, names, tmp_path) -> None:
    model = ContrastiveModel(lora(build()), **settings)
    start = {name: model.model.get_base_model().get_parameter(name).item() for name in ("logit_scale", *names)}
    assert {name for name in trained(model) if "lora_" not in name} == {f"model.base_model.model.{n}" for n in names}
    trainer(tmp_path / "run", model, max_steps=2).train()
    model.save_pretrained(tmp_path / "saved")
    again = ContrastiveModel.from_pretrained(tmp_path / "saved")
    for name in names:
        value = again.model.get_base_model().get_parameter(name)
        assert value.item() != start[name] and value.requires_grad
        assert torch.equal(value, model.model.get_base_model().get_parameter(name))
    assert trained(again) == trained(model)


def test_a_scale_under_peft_can_be_given_a_slower_rate_or_frozen_and_stays_so(tmp_path) -> None:
    model = ContrastiveModel(lora(clip()))
    assert temperature_parameter_groups(model, 1.0)[-1]["lr"] == 0.1
    find_temperature(model).freeze()
    model.save_pretrained(tmp_path)
    assert trained(ContrastiveModel.from_pretrained(tmp_path)) == trained(model)
    assert not any("logit_scale" in name for name in trained(model))


def test_a_peft_model_that_is_frozen_as_a_whole_stays_frozen() -> None:
    assert trained(ContrastiveModel(lora(clip()).requires_grad_(False))) == set()


def partly_frozen():
    tower = bert()
    tower.embeddings.requires_grad_(False)
    tower.encoder.layer[0].output.dense.weight.requires_grad_(False)
    return DualEncoder(nn.Identity(), tower, x_width=WIDTH, y_width=WIDTH)


def frozen_temperature():
    model = ContrastiveModel(clip(), temperature=Temperature(0.05, mode="learnable"))
    find_temperature(model).freeze()
    return model


def unfrozen_norms():
    tower = lora(bert())
    tower.get_base_model().embeddings.LayerNorm.requires_grad_(True)
    return DualEncoder(nn.Identity(), tower, x_width=WIDTH, y_width=WIDTH)


PARTLY = {"tower": partly_frozen, "temperature": frozen_temperature, "beside adapters": unfrozen_norms}


@pytest.mark.parametrize("build", PARTLY.values(), ids=PARTLY.keys())
def test_what_was_trained_is_trainable_and_nothing_else(build, tmp_path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    assert trained(type(model).from_pretrained(tmp_path)) == trained(model)
    assert len(json.loads((tmp_path / "config.json").read_text())["trained"]) < 20


def test_a_folder_of_before_these_were_recorded_still_loads(tmp_path) -> None:
    model = DualEncoder(nn.Identity(), bert().requires_grad_(False), x_width=WIDTH, y_width=WIDTH, width=5).eval()
    model.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    for name in ("trained", "shared", "reparameterized"):
        del described[name]
    described["parts"]["x_tower"]["frozen"] = described["parts"]["y_tower"]["frozen"] = True
    (tmp_path / "config.json").write_text(json.dumps(described))
    again = DualEncoder.from_pretrained(tmp_path)
    batch = {"x": torch.randn(4, WIDTH), "y": {"input_ids": Pairs(4).tokens}}
    assert torch.equal(again(**batch).logits, model(**batch).logits) and trained(again) == trained(model)
