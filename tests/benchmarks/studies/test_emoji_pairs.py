"""Emoji and captions: the parts never leak, captions and images meet by their code, features are computed once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.studies.modality_gap import emoji_pairs as data
from tests.benchmarks.studies.cases import synthetic_pairs


def test_the_parts_are_disjoint_and_the_test_vendor_draws_what_is_tested() -> None:
    pairs = synthetic_pairs(concepts=100)
    pairs.drawn[data.TEST_VENDOR][::3] = False
    split = data.split_concepts(pairs, num_validation=15, num_test=20, seed=3)
    parts = [set(part.tolist()) for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [65, 15, 20] and len(set.union(*parts)) == 100
    assert set(split.seen.tolist()) <= parts[0] and len(split.seen) == 20
    assert pairs.drawn[data.TEST_VENDOR][split.test].all() and pairs.drawn[data.TEST_VENDOR][split.seen].all()
    again = data.split_concepts(pairs, num_validation=15, num_test=20, seed=3)
    assert torch.equal(split.test, again.test) and torch.equal(split.train, again.train)


def npm_folder(root: Path) -> Path:
    """Two emoji in the layout of the packages; the third vendor draws one of them."""
    (root / "emojibase-data/en").mkdir(parents=True)
    entries = [
        {"hexcode": "2764", "label": "red heart", "tags": ["love"]},
        {"hexcode": "1F1F5-1F1EA", "label": "flag: Peru", "tags": ["PE", "flag"]},
    ]
    (root / "emojibase-data/en/data.json").write_text(json.dumps(entries))
    for vendor in data.TRAIN_VENDORS:
        folder = root / f"emoji-datasource-{vendor}"
        (folder / f"img/{vendor}/64").mkdir(parents=True)
        listed = [
            {"unified": code, "image": f"{code.lower()}.png", f"has_img_{vendor}": True}
            for code in ("2764-FE0F", "1F1F5-1F1EA")
        ]
        (folder / "emoji.json").write_text(json.dumps(listed))
        for entry in listed:
            Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(folder / f"img/{vendor}/64" / str(entry["image"]))
    assets = root / "@lobehub/fluent-emoji-3d/assets"
    assets.mkdir(parents=True)
    Image.new("RGBA", (4, 4), (0, 0, 0, 255)).save(assets / "2764-fe0f.webp")
    return root


def test_captions_and_images_meet_by_their_code_and_transparency_is_white(tmp_path, monkeypatch) -> None:
    root = npm_folder(tmp_path)
    captions, files = data.read_captions(root), data.read_files(root)
    assert captions == {"2764": "red heart: love", "1F1F5-1F1EA": "flag Peru: PE, flag"}
    white, black = (next(data.read_batches([files[vendor]["2764"]], 2)) for vendor in ("google", "fluent"))
    for shown, value in ((white, 1.0), (black, 0.0)):
        expected = [(value - mean) / deviation for mean, deviation in zip(data.MEAN, data.DEVIATION, strict=True)]
        torch.testing.assert_close(shown, torch.tensor(expected)[None, :, None, None].expand(1, 3, 2, 2))
    monkeypatch.setattr(data, "caption_states", lambda texts, settings: (torch.zeros(2, 1, 1),) * 2 + (texts,))
    monkeypatch.setattr(data, "image_features", lambda files, pixels, label: torch.full((len(files), 3), 7.0))
    pairs = data.compute_pairs(root, data.FeatureSettings())
    assert pairs.names == ["red heart", "flag Peru"] and pairs.drawn["fluent"].tolist() == [True, False]
    assert pairs.images["fluent"].tolist() == [[7.0] * 3, [0.0] * 3] and pairs.images["google"].min() == 7


def test_features_are_computed_once_for_the_same_settings(tmp_path, monkeypatch) -> None:
    computed = []
    monkeypatch.setattr(data, "compute_pairs", lambda root, settings: computed.append(1) or synthetic_pairs(5))
    cache = str(tmp_path / "deep" / "features.pt")
    first = data.load_pairs("", cache, data.FeatureSettings())
    second = data.load_pairs("", cache, data.FeatureSettings())
    assert len(computed) == 1 and torch.equal(first.states, second.states) and first.names == second.names
    data.load_pairs("", cache, data.FeatureSettings(pixels=64))
    assert len(computed) == 2


def test_what_is_missing_is_named_with_the_command_that_gets_it(tmp_path, monkeypatch) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)is missing; get the emoji with.*npm install .*emojibase-data@17.*\nor name another folder with",
    ):
        data.load_pairs(str(tmp_path), str(tmp_path / "cache.pt"), data.FeatureSettings())
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps efficientnet-lite-pytorch"):
        data.image_features([], 96, "google")
    with pytest.raises(ValueError, match="30 of them drawn by fluent; .* are needed: lower num_validation or"):
        data.split_concepts(synthetic_pairs(30), 5, 20, 0)
