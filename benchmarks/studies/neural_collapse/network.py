"""A small residual network for 28 x 28 images, and Fashion-MNIST from the files that Debian packages."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

DEFAULT_DATA = "/usr/share/datasets/fashion-mnist"
HOW_TO_INSTALL = "install it with `apt-get install dataset-fashion-mnist`, or name the folder with --data"


class Images(NamedTuple):
    """Standardized images (n, 1, 28, 28) and their classes (n,)."""

    pixels: Tensor
    labels: Tensor

    def first_per_class(self, count: int) -> Images:
        """Take the first `count` images of every class, in their order."""
        order = torch.argsort(self.labels, stable=True)
        starts = torch.searchsorted(self.labels[order], self.labels[order])
        rank = torch.arange(len(order)) - starts
        kept = order[rank < count].sort().values
        return Images(self.pixels[kept], self.labels[kept])


def fashion_mnist(folder: str, part: str) -> Images:
    """Read one part ("train" or "t10k") of Fashion-MNIST, standardized by the training set's mean and deviation.

    Raises:
        FileNotFoundError: the folder does not have the files.
    """
    files = [Path(folder) / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {HOW_TO_INSTALL}")
    with gzip.open(files[0]) as images:
        _, count, height, width = struct.unpack(">4i", images.read(16))
        raw = np.frombuffer(images.read(), np.uint8).reshape(count, 1, height, width)
    with gzip.open(files[1]) as classes:
        labels = np.frombuffer(classes.read()[8:], np.uint8)
    pixels = (torch.from_numpy(raw.copy()).float() / 255 - 0.2860) / 0.3530
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)))


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalization and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """Three residual stages and average pooling: images -> features (n, d).

    The features come from a linear layer after the pooling, centered by batch normalization: pooled ReLU outputs are
    non-negative, and no two vectors of a simplex ETF could then point away from each other.
    """

    def __init__(self, width: int = 16, num_features: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.features = nn.Linear(4 * width, num_features, bias=False)
        self.features_norm = nn.BatchNorm1d(num_features)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.features_norm(self.features(self.stages(self.stem(pixels)).mean((2, 3))))
