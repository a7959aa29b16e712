"""The models: what they return, whatever the towers, and that they come back from a folder as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BatchEncoding, CLIPModel, CLIPTextModel, CLIPVisionModel

from deep_lora import DeepLoraConfig
from modality import ContrastiveModel, DualEncoder, Temperature, contrastive_loss
from modality.models import tower_features
from tests.modality.trainers import WIDTH, Convolution, Pairs, bert, chinese_clip, clip, siglip
from tests.models import disturb_

MODELS = {"clip": clip, "chinese clip": chinese_clip, "siglip": siglip}


def lora(model):
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "query"], init_lora_weights=False))


def deep(model):
    adapted = get_peft_model(model, DeepLoraConfig(r=4, target_modules=["q_proj", "query"]))
    disturb_(adapted)
    return adapted


def dual(x_tower=None, y_tower=None, **settings):
    torch.manual_seed(4)
    return DualEncoder(x_tower or Convolution(), y_tower or bert(), x_width=WIDTH, y_width=WIDTH, width=5, **settings)


def dual_batch(count=6):
    data = Pairs(count)
    return {"x": data.images, "y": {"input_ids": data.tokens, "attention_mask": (data.tokens != 4).long()}}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_a_wrapped_model_returns_the_loss_and_embeddings_of_transformers(build) -> None:
    model = build().eval()
    batch = Pairs(6).batch()
    expected = model(**batch, return_loss=True)
    kind = "sigmoid" if hasattr(model, "logit_bias") else "contrastive"
    found = ContrastiveModel(model, loss=kind).eval()(**batch)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0)
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        torch.testing.assert_close(getattr(found, name), expected[name], rtol=1e-5, atol=1e-6)


def test_without_return_loss_there_is_none_and_logits_carry_gradients() -> None:
    model = dual()
    output = model(**dual_batch(), return_loss=False)
    assert output.loss is None and output.logits.requires_grad
    assert model(**dual_batch())[0].dim() == 0


def test_a_dual_encoder_is_its_parts() -> None:
    model = dual(temperature=Temperature(0.2)).eval()
    batch = dual_batch()
    maps = model.x_tower(batch["x"])
    hidden = model.y_tower(**batch["y"]).last_hidden_state
    mask = batch["y"]["attention_mask"].double()
    x = maps.mean((2, 3)) @ model.x_projection.weight.T
    pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    y = pooled @ model.y_projection.weight.T.double()
    loss = contrastive_loss(x.double(), y, 5.0)
    torch.testing.assert_close(model(**batch).loss.double(), loss, rtol=1e-5, atol=0)


def test_duplicates_by_ids_change_the_loss_as_they_do_in_the_function() -> None:
    model = dual(duplicates="exclude", label_smoothing=0.1).eval()
    ids = torch.tensor([0, 1, 0, 2, 1, 3])
    output = model(**dual_batch(), ids=ids)
    inverse = model.temperature()
    settings = {"ids": ids, "duplicates": "exclude", "label_smoothing": 0.1}
    expected = contrastive_loss(output.x_embeds, output.y_embeds, inverse, **settings)
    torch.testing.assert_close(output.loss, expected)
    assert (output.loss - contrastive_loss(output.x_embeds, output.y_embeds, inverse, label_smoothing=0.1)).abs() > 0.01


def test_without_normalization_embeddings_keep_their_norms() -> None:
    batch = dual_batch()
    norms = [dual(normalize=flag)(**batch).x_embeds.norm(dim=1) for flag in (True, False)]
    torch.testing.assert_close(norms[0], torch.ones(6))
    assert (norms[1] - 1).abs().max() > 0.1


def test_towers_may_return_vectors_tokens_maps_or_model_outputs() -> None:
    tokens, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert torch.equal(tower_features(tokens[:, 0], "mean"), tokens[:, 0])
    torch.testing.assert_close(tower_features(tokens, "mean", mask)[0], tokens[0, :2].mean(0))
    torch.testing.assert_close(tower_features(tokens, "mean"), tokens.mean(1))
    assert torch.equal(tower_features(tokens, "first", mask), tokens[:, 0])
    maps = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(tower_features(maps, "mean"), maps.flatten(2).mean(2))
    model = clip()
    vision, text = CLIPVisionModel(model.config.vision_config), CLIPTextModel(model.config.text_config)
    data = Pairs(3)
    both = DualEncoder(
        vision, text, x_width=WIDTH, y_width=WIDTH, width=WIDTH, projection="none", x_pooling="pooler",
        y_pooling="pooler",
    ).eval()  # fmt: skip
    found = both(BatchEncoding({"pixel_values": data.images}), {"input_ids": data.tokens}).x_embeds
    expected = torch.nn.functional.normalize(vision.eval()(data.images).pooler_output, dim=1)
    torch.testing.assert_close(found, expected)


SAVED = {
    "clip": lambda: (ContrastiveModel(clip(), label_smoothing=0.1), {}),
    "siglip": lambda: (ContrastiveModel(siglip(), loss="sigmoid", gather=False), {}),
    "own bias": lambda: (ContrastiveModel(clip(), loss="sigmoid"), {}),
    "temperature": lambda: (ContrastiveModel(clip(), temperature=Temperature(0.05, "softplus"), chunk_size=3), {}),
    "lora": lambda: (ContrastiveModel(lora(clip())), {}),
    "deep lora": lambda: (ContrastiveModel(deep(clip()), temperature=Temperature(0.03, "scheduled")), {}),
    "given tower": lambda: (dual(temperature=Temperature(0.1, "exp", scale=2.0)), {"x_tower": Convolution()}),
    "adapted towers": lambda: (dual(nn.Identity(), deep(bert()), projection="mlp", normalize=False), {}),
    "sigmoid": lambda: (dual(nn.Identity(), lora(bert()), loss="sigmoid", y_pooling="first"), {}),
    "frozen": lambda: (dual(nn.Identity(), bert().requires_grad_(False)), {}),
}


@pytest.mark.parametrize("build", SAVED.values(), ids=SAVED.keys())
def test_a_saved_model_comes_back_as_it_was(build, tmp_path) -> None:
    model, parts = build()
    batch = Pairs(5).batch() if isinstance(model, ContrastiveModel) else dual_batch(5)
    if isinstance(getattr(model, "x_tower", None), nn.Identity):
        batch["x"] = torch.randn(5, WIDTH)
    model.eval().objective.swap_steps = 17
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, **parts)
    mine, theirs = model(**batch), again(**batch)
    assert torch.equal(mine.logits, theirs.logits) and torch.equal(mine.loss, theirs.loss)
    assert again.settings() == model.settings() and again.objective.swap_steps == 17 and not again.training
    trained = [{name for name, p in m.named_parameters() if p.requires_grad} for m in (model, again)]
    assert trained[0] == trained[1]


def test_several_adapters_come_back_with_the_active_one(tmp_path) -> None:
    inner = lora(clip())
    inner.add_adapter("second", LoraConfig(r=3, target_modules=["v_proj"], init_lora_weights=False))
    inner.set_adapter("second")
    model = ContrastiveModel(inner).eval()
    model.save_pretrained(tmp_path)
    again = ContrastiveModel.from_pretrained(tmp_path)
    assert isinstance(again.model, PeftModel) and again.model.active_adapters == ["second"]
    assert torch.equal(again(**Pairs(4).batch()).logits, model(**Pairs(4).batch()).logits)


def test_weights_of_half_precision_towers_keep_their_type(tmp_path) -> None:
    model = dual(nn.Identity(), bert().bfloat16()).eval()
    model.y_tower.config.dtype = torch.bfloat16
    model.save_pretrained(tmp_path)
    assert DualEncoder.from_pretrained(tmp_path).y_tower.dtype == torch.bfloat16


def test_the_wrapped_model_saved_by_itself_has_the_temperature_that_replaced_its_own(tmp_path) -> None:
    model = ContrastiveModel(clip(), temperature=Temperature(0.03))
    model.save_pretrained(tmp_path / "all")
    model.model.save_pretrained(tmp_path / "clip")
    assert CLIPModel.from_pretrained(tmp_path / "clip").logit_scale.exp().item() == pytest.approx(1 / 0.03, rel=1e-5)


def test_pushing_to_the_hub_uploads_the_saved_folder(tmp_path, monkeypatch) -> None:
    uploaded = {}

    def upload(self, *, folder_path, **settings):
        uploaded["files"] = {path.name for path in Path(folder_path).iterdir()}

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **settings: type("Url", (), {"repo_id": repo_id})())
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    dual(nn.Identity()).push_to_hub("someone/towers")
    assert {"README.md", "config.json", "model.safetensors"} <= uploaded["files"]
