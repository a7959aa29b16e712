"""An alignment inside a sentence-transformers model: applied by modality, saved and loaded with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from modality import Centering, LinearAlignment, modality_gap
from modality.sentence_transformers import AlignedEmbeddings
from tests.models import word_tokenizer

WORDS = "a cat sat on the mat while one dog ran far away".split()
TEXTS = [" ".join(WORDS[i : i + 3]) for i in range(8)]
IMAGES = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)) for i in range(8)]
TOWER = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("clip"))
    torch.manual_seed(0)
    text = TOWER | {"vocab_size": len(WORDS) + 3, "eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 16}
    vision = TOWER | {"image_size": 4, "patch_size": 2}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 4}, crop_size={"height": 4, "width": 4})
    CLIPProcessor(image_processor=images, tokenizer=word_tokenizer(WORDS)).save_pretrained(folder)
    return folder


def clip(base: str) -> SentenceTransformer:
    return SentenceTransformer(modules=[Transformer(base)], device="cpu")


def encoded(model: SentenceTransformer) -> dict[str, np.ndarray]:
    return {
        "image": model.encode(IMAGES, show_progress_bar=False),
        "text": model.encode(TEXTS, show_progress_bar=False),
    }


MAKERS: dict[str, Any] = {
    "centering": Centering.fit,
    "linear": lambda features: LinearAlignment.fit(features, "text", penalty=0.1),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_it_lives_in_the_model_through_saving_and_loading(kind: str, base: str, tmp_path: Any) -> None:
    model = clip(base)
    plain = encoded(model)
    alignment = MAKERS[kind](plain)
    model.append(AlignedEmbeddings(alignment))
    found = encoded(model)
    for name, rows in plain.items():
        np.testing.assert_allclose(found[name], alignment.apply(name, rows).numpy(), atol=1e-6)
    assert modality_gap(*found.values())["gap"] < 0.5 * modality_gap(*plain.values())["gap"]
    model.save_pretrained(str(tmp_path))
    again = encoded(SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True))
    for name in plain:
        np.testing.assert_allclose(again[name], found[name], atol=1e-7)


def test_a_model_with_an_alignment_can_be_trained_further(base: str) -> None:
    model = clip(base)
    alignment = Centering.fit(encoded(model))
    features = model.preprocess(TEXTS)
    plain = model[0](dict(features))["sentence_embedding"]
    model.append(AlignedEmbeddings(alignment))
    weight = model[0].model.text_projection.weight
    found = torch.autograd.grad(model(dict(features))["sentence_embedding"][:, 0].sum(), weight)[0]
    centered = torch.nn.functional.normalize(plain) - alignment.means["text"].float()
    expected = torch.autograd.grad(torch.nn.functional.normalize(centered)[:, 0].sum(), weight)[0]
    assert found.any() and torch.allclose(found, expected, atol=1e-5)


def test_half_precision_leaves_the_means_as_they_are(base: str) -> None:
    module = AlignedEmbeddings(Centering.fit(encoded(clip(base))))
    before = module.alignment.means["image"].clone()
    module.bfloat16()
    assert torch.equal(module.alignment.means["image"], before) and before.dtype == torch.float32
    features = {"modality": "image", "sentence_embedding": torch.ones(2, 6, dtype=torch.bfloat16)}
    assert module(features)["sentence_embedding"].dtype == torch.bfloat16


def test_what_does_not_fit_is_refused(base: str) -> None:
    with pytest.raises(TypeError, match="`alignment` must be a fitted `Centering` or `LinearAlignment`, got dict"):
        AlignedEmbeddings({})  # type: ignore[arg-type]
    model = clip(base)
    found = encoded(model)
    model.append(AlignedEmbeddings(Centering.fit({"image": found["image"], "audio": found["text"]})))
    with pytest.raises(ValueError, match="fitted for .'image', 'audio'., and not for 'text'"):
        model.encode(TEXTS, show_progress_bar=False)
