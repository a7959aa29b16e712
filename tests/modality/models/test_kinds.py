"""Contrastive models with temperatures, outputs and inputs of their own, alone and in a Trainer."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.utils import ModelOutput

from modality import ContrastiveModel, Temperature, find_temperature, temperature_parameter_groups
from modality.output import paired_embeddings
from tests.modality.trainers import SMALL, TEXT, VOCABULARY, Pairs, clip, siglip, trainer

WAVES = {"patch_size": 4, "window_size": 4, "spec_size": 32, "num_mel_bins": 8, "depths": [1, 1],
         "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16, "num_classes": 4,
         "projection_dim": 8, "aff_block_r": 1}  # fmt: skip


def clap():
    torch.manual_seed(0)
    text = TEXT | {"max_position_embeddings": 20, "projection_dim": 8}
    return hf.ClapModel(hf.ClapConfig(text_config=text, projection_dim=8, audio_config=WAVES))


def align():
    torch.manual_seed(0)
    vision = {"image_size": 32, "kernel_sizes": [3, 3, 5], "in_channels": [32, 16, 24], "out_channels": [16, 24, 30],
              "hidden_dim": 64, "strides": [1, 1, 2], "num_block_repeats": [1, 1, 2], "expand_ratios": [1, 6, 6],
              "initializer_range": 0.3}  # fmt: skip
    text = TEXT | {"hidden_size": 8}
    return hf.AlignModel(hf.AlignConfig(text_config=text, vision_config=vision, projection_dim=64))


DRAWS = torch.Generator().manual_seed(0)
TOKENS = torch.randint(3, VOCABULARY, (4, 5), generator=DRAWS)
SOUNDS = {"input_ids": TOKENS, "input_features": torch.randn(4, 1, 32, 8, generator=DRAWS)}
IMAGES = {"input_ids": TOKENS, "pixel_values": torch.randn(4, 3, 32, 32, generator=DRAWS)}
OWN = {"clap": (clap, SOUNDS, "logits_per_audio"), "align": (align, IMAGES, "logits_per_image")}


@pytest.mark.parametrize(("build", "batch", "logits"), OWN.values(), ids=OWN.keys())
def test_a_temperature_replaces_every_one_that_the_model_has_and_is_saved_in_their_place(
    build, batch, logits, tmp_path
) -> None:
    inner = build().eval()
    model = ContrastiveModel(inner, temperature=Temperature(0.05)).eval()
    named = {
        name: p for name, p in inner.named_parameters() if name in ("logit_scale_a", "logit_scale_t", "temperature")
    }
    assert named and not any(parameter.requires_grad for parameter in named.values())
    model.temperature.set_tau(0.2)
    model.save_pretrained(tmp_path / "all")
    inner.save_pretrained(tmp_path / "inner")
    again = type(inner).from_pretrained(tmp_path / "inner").eval().double()
    exact = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    with torch.no_grad():  # in double precision: random towers enlarge rounding
        torch.testing.assert_close(again(**exact)[logits], model.double()(**exact).logits, rtol=1e-6, atol=1e-6)


def test_two_temperatures_of_a_model_are_refused_where_one_is_needed() -> None:
    with pytest.raises(
        ValueError, match="2 temperatures of its own, .*, and the loss has one for both directions; pass `temperature="
    ):
        ContrastiveModel(clap())


def test_a_model_that_stores_tau_trains_it_and_can_be_driven() -> None:
    inner = align()
    model = ContrastiveModel(inner).eval()
    find_temperature(model).set_tau(0.1)
    assert inner.temperature.item() == pytest.approx(0.1) and find_temperature(model).tau() == pytest.approx(0.1)
    output = model(**IMAGES)
    torch.testing.assert_close(output.logits, inner(**IMAGES).logits_per_image, rtol=1e-4, atol=1e-4)
    output.loss.backward()
    assert inner.temperature.grad is not None
    assert temperature_parameter_groups(model, 1.0)[-1]["params"] == [inner.temperature]


class OpenClip(nn.Module):
    """Images and texts as `open_clip.CLIP` returns them."""

    def __init__(self, as_dict):
        super().__init__()
        self.visual, self.text, self.as_dict = nn.Linear(12, 5), nn.Embedding(VOCABULARY, 5), as_dict
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, image=None, text=None):
        x, y = (nn.functional.normalize(rows, dim=-1) for rows in (self.visual(image), self.text(text).mean(1)))
        found = {"image_features": x, "text_features": y, "logit_scale": self.logit_scale.exp()}
        return found if self.as_dict else tuple(found.values())


@pytest.mark.parametrize("as_dict", [True, False])
def test_models_of_open_clip_are_trained_as_they_are(as_dict, tmp_path) -> None:
    inner = OpenClip(as_dict)
    model = ContrastiveModel(inner)
    image = torch.randn(4, 12)
    with torch.no_grad():
        x, y, scale = OpenClip.forward(inner, image, TOKENS).values() if as_dict else inner(image, TOKENS)
    torch.testing.assert_close(model(image=image, text=TOKENS).logits, scale * x @ y.mT)


def test_a_tuple_of_logits_and_embeddings_is_not_taken_for_a_pair() -> None:
    output = clip()(**Pairs(6).batch(), return_dict=False)
    assert output[0].shape == output[1].shape == (6, 6) and paired_embeddings(output) is None
    with pytest.raises(ValueError, match="returned a tuple without embeddings of two modalities"):
        ContrastiveModel(clip())(**Pairs(6).batch(), return_dict=False)


class Several(nn.Module):
    """Several vectors for each image, or each text, as X-CLIP and BLIP-2 have."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.weight = shapes, nn.Parameter(torch.ones(()))

    def forward(self, input_ids):
        x, y = (self.weight * torch.ones(shape) for shape in self.shapes)
        return ModelOutput(image_embeds=x, text_embeds=y)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2, 3)), ((4, 32, 3), (4, 3)), ((4, 3), (2, 3))])
def test_embeddings_that_are_not_one_row_for_each_pair_are_refused_in_one_sentence(shapes) -> None:
    model = ContrastiveModel(Several(shapes), temperature=Temperature())
    with pytest.raises(ValueError, match=r"Several returned embeddings of shapes .*needs one row for each pair"):
        model(TOKENS)


class Masked(nn.Module):
    """A CLIP-like model with inputs that no other one has."""

    def __init__(self):
        super().__init__()
        self.x, self.y, self.seen = nn.Linear(3 * 16, 3), nn.Embedding(VOCABULARY, 3), set()

    def forward(self, pixel_values, input_ids, region_mask=None, *, weight=None, **further):
        self.seen = {name for name, value in (("region_mask", region_mask), ("weight", weight)) if value is not None}
        x = pixel_values if region_mask is None else pixel_values * region_mask[:, None]
        x = x.flatten(1) if weight is None else x.flatten(1) * weight[:, None]
        return ModelOutput(image_embeds=self.x(x), text_embeds=self.y(input_ids).mean(1))


def masked(count=8):
    data = Pairs(count)
    return [data[i] | {"region_mask": torch.eye(4), "weight": torch.tensor(float(i)), "junk": 1} for i in range(count)]


@pytest.mark.parametrize("adapt", [False, True])
def test_a_trainer_hands_on_every_input_that_the_model_takes_and_no_other(adapt, tmp_path) -> None:
    torch.manual_seed(0)
    inner = Masked()
    model = get_peft_model(inner, LoraConfig(r=2, target_modules=["x"])) if adapt else inner
    wrapped = ContrastiveModel(model, temperature=Temperature(0.1))
    rows = masked()
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "junk"}
    right = wrapped(**batch).loss.item()
    run = trainer(tmp_path, wrapped, max_steps=1, per_device_train_batch_size=8)
    run.train_dataset = rows
    run.train()
    assert inner.seen == {"region_mask", "weight"}
    assert run.state.log_history[0]["loss"] == pytest.approx(right, rel=1e-3)


def test_the_forward_pass_of_a_wrapper_is_a_method_like_any_other() -> None:
    model = ContrastiveModel(Masked(), temperature=Temperature(0.1))
    names = list(inspect.signature(model.forward).parameters)
    assert names[:2] == ["input_ids", "pixel_values"] and {"region_mask", "weight", "ids"} < set(names)
    assert names.count("input_ids") == 1 and "junk" not in names
    assert inspect.signature(type(model).forward).parameters["return_loss"].default is True
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.forward.__self__ is other and other.model is not model.model
    assert len(SMALL) == 4


HALF = {
    "clip": lambda dtype: ContrastiveModel(clip().to(dtype)),
    "cast after": lambda dtype: ContrastiveModel(clip()).to(dtype),
    "siglip": lambda dtype: ContrastiveModel(siglip().to(dtype), loss="sigmoid"),
    "own bias": lambda dtype: ContrastiveModel(clip(), loss="sigmoid").to(dtype),
    "temperature": lambda dtype: ContrastiveModel(clip(), temperature=Temperature(0.07, "learnable")).to(dtype),
}


@pytest.mark.parametrize("build", HALF.values(), ids=HALF.keys())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scale_and_bias_of_a_half_precision_model_are_learned_in_float32(build, dtype, tmp_path) -> None:
    model = build(dtype).train()
    scalars = [p for p in model.parameters() if p.requires_grad and p.numel() == 1]
    assert scalars and all(p.dtype == torch.float32 for p in scalars)
    assert any(p.dtype == dtype for p in model.parameters())
    start = [p.item() for p in scalars]
    optimizer = torch.optim.AdamW(scalars, lr=1e-4, weight_decay=0.0)
    data = Pairs(8)
    for _ in range(3):
        optimizer.zero_grad()
        model(data.tokens, data.images.to(dtype)).loss.backward()
        optimizer.step()
    for parameter, value in zip(scalars, start, strict=True):
        assert abs(parameter.item() - value) == pytest.approx(3e-4, rel=0.1)
    model.save_pretrained(tmp_path)
    again = ContrastiveModel.from_pretrained(tmp_path)
    assert find_temperature(again).tau() == find_temperature(model).tau()


@pytest.mark.parametrize("build", [clip, siglip])
def test_a_schedule_sets_the_temperature_of_a_half_precision_model_exactly(build) -> None:
    plain = build().bfloat16()
    handle = find_temperature(plain)
    handle.set_tau(0.03)
    assert handle.tau() == pytest.approx(0.03, rel=1e-6) and plain.logit_scale.dtype == torch.float32
    assert plain(Pairs(2).tokens, Pairs(2).images.bfloat16()).logits_per_image.isfinite().all()
