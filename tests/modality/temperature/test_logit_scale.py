"""The temperature of transformers models is found by name, and learned in another way without harm to checkpoints."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPModel

from modality import ContrastiveModel, Temperature, find_temperature, reparameterize_logit_scale_
from tests.modality.trainers import Pairs, chinese_clip, clip, siglip

MODELS = {"clip": clip, "chinese clip": chinese_clip, "siglip": siglip}


def adapted(model):
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))


WRAPPERS = {"plain": lambda m: m, "peft": adapted, "wrapped": lambda m: nn.DataParallel(ContrastiveModel(adapted(m)))}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize("build", [clip, siglip], ids=["clip", "siglip"])
def test_a_logit_scale_is_found_inside_wrappers_and_set_to_the_temperature(build, wrap) -> None:
    inner = build()
    handle = find_temperature(wrap(inner))
    assert handle.name.endswith("logit_scale")
    handle.set_tau(0.03)
    assert inner.logit_scale.exp().item() == pytest.approx(1 / 0.03, rel=1e-5)
    assert handle.tau() == pytest.approx(0.03, rel=1e-5)
    handle.freeze()
    assert not inner.logit_scale.requires_grad


def test_a_temperature_module_goes_before_the_logit_scale_it_replaces() -> None:
    model = ContrastiveModel(clip(), temperature=Temperature(0.05))
    assert find_temperature(model).name == "temperature"
    assert find_temperature(model, "logit_scale").name == "model.logit_scale"


def test_logit_scales_of_attention_heads_are_not_temperatures() -> None:
    model = clip()
    model.vision_model.logit_scale = nn.Parameter(torch.zeros(4, 1, 1))
    assert find_temperature(model).name == "logit_scale"


@pytest.mark.parametrize(("mode", "scale", "slope"), [("softplus", 1.0, None), ("exp", 2.0, 0.5), ("exp", 10.0, 0.1)])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_a_reparameterized_model_computes_the_same_and_learns_nu_by_the_chain_rule(build, mode, scale, slope) -> None:
    batch = Pairs(6).batch()
    model = build().eval()
    value = model(**batch, return_loss=True).loss
    (gradient,) = torch.autograd.grad(value, model.logit_scale)
    inverse = model.logit_scale.exp().item()
    reparameterize_logit_scale_(model, mode, scale=scale)
    loss = model(**batch, return_loss=True).loss
    nu = model.parametrizations.logit_scale.original
    (found,) = torch.autograd.grad(loss, nu)
    torch.testing.assert_close(loss, value, rtol=1e-5, atol=0)
    slope = slope or -math.expm1(-inverse) / inverse  # d log(softplus(nu)) / dnu
    torch.testing.assert_close(found, slope * gradient, rtol=1e-4, atol=1e-9)


def test_a_reparameterized_checkpoint_is_one_of_the_plain_model_and_resumes_bit_for_bit(tmp_path) -> None:
    model = reparameterize_logit_scale_(clip(), "softplus")
    with torch.no_grad():
        model.parametrizations.logit_scale.original += 0.7
    model.save_pretrained(tmp_path)
    plain = CLIPModel.from_pretrained(tmp_path)
    assert type(model).__name__ == plain.config.architectures[0] == "CLIPModel"
    assert torch.equal(plain.logit_scale, model.logit_scale)
    again = reparameterize_logit_scale_(clip(seed=1), "softplus")
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))  # as a Trainer resumes
    assert torch.equal(again.parametrizations.logit_scale.original, model.parametrizations.logit_scale.original)
    from_plain = reparameterize_logit_scale_(clip(seed=1), "softplus")
    from_plain.load_state_dict(plain.state_dict())
    torch.testing.assert_close(from_plain.logit_scale, plain.logit_scale, rtol=1e-6, atol=0)
