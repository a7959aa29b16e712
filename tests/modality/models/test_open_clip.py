"""Models of open_clip itself, tiny and random, where it is installed; `test_kinds.py` has a stand-in for elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modality import ContrastiveModel, find_temperature
from tests.modality.trainers import Pairs

open_clip = pytest.importorskip("open_clip")

IMAGES = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 2, "image_size": 4}
TEXTS = {"context_length": 5, "vocab_size": 31, "width": 16, "heads": 2, "layers": 1}
KINDS = {
    "tuple": (open_clip.CLIP, {}),
    "dictionary": (open_clip.CLIP, {"output_dict": True}),
    "text tower": (open_clip.CustomTextCLIP, {}),
    "SigLIP": (open_clip.CLIP, {"init_logit_bias": -10.0, "init_logit_scale": math.log(10.0)}),
    "one scale in a vector": (open_clip.CLIP, {"nonscalar_logit_scale": True}),
}


def inner(kind: str = "tuple", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    build, options = KINDS[kind]
    return build(6, open_clip.CLIPVisionCfg(**IMAGES), open_clip.CLIPTextCfg(**TEXTS), **options)


def batch(count: int = 6) -> dict[str, torch.Tensor]:
    pairs = Pairs(count)
    return {"image": pairs.images, "text": pairs.tokens}


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_logits_are_those_of_the_model_itself(kind) -> None:
    clip = inner(kind).eval()
    loss = "sigmoid" if kind == "SigLIP" else "contrastive"
    output = ContrastiveModel(clip, loss=loss).eval()(**batch())
    x, y = clip.encode_image(batch()["image"], normalize=True), clip.encode_text(batch()["text"], normalize=True)
    logits = clip.logit_scale.exp() * x @ y.mT + (clip.logit_bias if kind == "SigLIP" else 0.0)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-4)
    if kind == "SigLIP":
        signs = 2 * torch.eye(6) - 1
        expected = -nn.functional.logsigmoid(signs * logits).sum() / 6
    else:
        own = open_clip.ClipLoss()
        expected = own(x, y, clip.logit_scale.exp().reshape(()))
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-4)


def test_it_is_saved_and_loaded_around_a_model_of_the_same_shape(tmp_path) -> None:
    model = ContrastiveModel(inner())
    find_temperature(model).set_tau(0.2)
    model.save_pretrained(tmp_path)
    loaded = ContrastiveModel.from_pretrained(tmp_path, model=inner(seed=1))
    assert torch.equal(loaded(**batch()).logits, model.eval()(**batch()).logits)
    assert find_temperature(loaded).tau() == pytest.approx(0.2)


def test_gradient_checkpointing_reaches_it_and_changes_nothing() -> None:
    gradients = []
    for enabled in (False, True):
        model = ContrastiveModel(inner()).train()
        if enabled:
            model.gradient_checkpointing_enable()
            assert model.model.visual.transformer.grad_checkpointing and model.model.transformer.grad_checkpointing
        model(**batch()).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)
