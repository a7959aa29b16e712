"""Models of open_clip itself, tiny and random, where it is installed; `test_kinds.py` has a stand-in for elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from modality import (
    ContrastiveModel,
    LinearSchedule,
    ModalityGapCallback,
    TemperatureScheduleCallback,
    find_temperature,
)
from tests.modality.trainers import Pairs, trainer

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


class Named(Pairs):
    """Pairs under the names that open_clip has for its inputs."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self.images[index], "text": self.tokens[index]}


def batch(count: int = 6) -> dict[str, torch.Tensor]:
    pairs = Named(count)
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


def test_a_trainer_trains_it_with_schedule_and_metrics_and_it_is_saved(tmp_path) -> None:
    model = ContrastiveModel(inner())
    run = trainer(tmp_path, model, callbacks=[TemperatureScheduleCallback(LinearSchedule(0.05, 0.2))])
    run.train_dataset, run.eval_dataset = Named(16, 1), Named(10, 2)
    run.add_callback(ModalityGapCallback(run))
    before = inner().visual.conv1.weight
    run.train()
    assert run.evaluate()["eval_x_to_y_pool"] == 10 and not torch.equal(model.model.visual.conv1.weight, before)
    assert find_temperature(model).tau() == pytest.approx(0.05 + 0.15 * 5 / 6, rel=1e-4)
    model.save_pretrained(tmp_path / "saved")
    loaded = ContrastiveModel.from_pretrained(tmp_path / "saved", model=inner(seed=1))
    assert torch.equal(loaded(**batch()).logits, model.eval()(**batch()).logits)


def test_its_temperature_is_trained_beside_an_adapter() -> None:
    model = ContrastiveModel(get_peft_model(inner(), LoraConfig(r=2, target_modules=["c_fc"])))
    model(**batch()).loss.backward()
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.grad is not None and name}
    assert "logit_scale" in trained and "in_proj_weight" not in trained


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
