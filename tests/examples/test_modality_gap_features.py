"""Captions and images of emoji meet by their code, and only concepts that all vendors draw are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.examples import cases

example = cases.load("modality_gap_features")


@pytest.fixture
def root(tmp_path) -> Path:
    """Two emoji in the layout of the packages; the third vendor draws one of them."""
    root = tmp_path / "node_modules"
    (root / "emojibase-data/en").mkdir(parents=True)
    entries = [
        {"hexcode": "2764", "label": "red heart", "tags": ["love"]},
        {"hexcode": "1F1F5-1F1EA", "label": "flag: Peru", "tags": ["PE", "flag"]},
    ]
    (root / "emojibase-data/en/data.json").write_text(json.dumps(entries))
    for vendor in ("google", "twitter"):
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


def test_captions_and_images_meet_by_their_code_and_transparency_is_white(root) -> None:
    captions, files = example.read_captions(root), example.read_files(root)
    assert captions == {"2764": "red heart: love", "1F1F5-1F1EA": "flag Peru: PE, flag"}
    for vendor, value in (("google", 1.0), ("fluent", 0.0)):
        shown = example.read_image(files[vendor]["2764"], 2)
        expected = [(value - mean) / deviation for mean, deviation in zip(example.MEAN, example.DEVIATION, strict=True)]
        torch.testing.assert_close(shown, torch.tensor(expected)[:, None, None].expand(3, 2, 2))


def test_concepts_that_all_vendors_draw_are_written(root, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(example, "image_features", lambda files: torch.full((len(files), 3), 7.0))
    output = tmp_path / "out/features.pt"
    assert cases.run(example, monkeypatch, "--data", root, "--output", output) == 0
    found = torch.load(output)
    assert found.pop("captions") == ["red heart: love"]
    assert {vendor: features.shape for vendor, features in found.items()} == dict.fromkeys(
        ("google", "twitter", "fluent"), torch.Size([1, 3])
    )


def test_missing_emoji_are_named_and_the_help_says_how_to_get_them(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match="emojibase-data"):
        cases.run(example, monkeypatch, "--data", tmp_path)
    for package in ("emoji-datasource-google@", "fluent-emoji-3d@", "emojibase-data@", "efficientnet-lite-pytorch=="):
        assert package in example.__doc__
