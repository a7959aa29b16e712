"""The data, starts and losses of `recorded/dmf.npz` as torch sees them; no package code is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CASES = ("factorization", "completion", "depth4")


@dataclass(frozen=True)
class RecordedCase:
    """Data, wide start `factors` (W_1 first), compressed start `compressed` (V^T, cores, U), losses by name."""

    target: Tensor
    mask: Tensor
    factors: list[Tensor]
    compressed: list[Tensor]
    losses: dict[str, Tensor]
    rank: int
    init_scale: float
    step: float
    inner: int


def case(name: str) -> RecordedCase:
    with np.load(Path(__file__).parent / "recorded" / "dmf.npz") as file:
        arrays = {
            key.removeprefix(f"{name}/"): torch.from_numpy(file[key])
            for key in file.files
            if key.startswith(f"{name}/")
        }
    _, _, rank, depth, init_scale, _, step, _, inner = arrays["meta"].tolist()
    return RecordedCase(
        target=arrays["target"],
        mask=arrays["mask"],
        factors=[arrays[f"W{level}"] for level in range(1, int(depth) + 1)],
        compressed=[arrays[f"C{level}"] for level in range(int(depth) + 2)],
        losses={key: value for key, value in arrays.items() if key.endswith(("_train", "_test"))},
        rank=int(rank),
        init_scale=init_scale,
        step=step,
        inner=int(inner),
    )
