"""A photograph of which most pixels are missing, completed as a matrix."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matrix_completion_data import photograph

from dmf import MatrixCompletion

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def psnr(error: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibel of values between 0 and 1."""
    return float(-10 * np.log10(np.mean(error**2)))


def complete_photograph(
    output: Path, seed: int, missing: float, rank: int, epochs: int, every: int = 1
) -> dict[str, Any]:
    """Complete it, compare the missing pixels with the truth, and draw before, after and truth side by side."""
    whole, damaged = photograph(missing, seed, every)
    gone = np.isnan(damaged)
    settings: dict[str, Any] = {"rank": rank, "weight_decay": 0.25, "clip": (0.0, 1.0), "random_state": seed}
    model = MatrixCompletion(max_epochs=epochs, validation_fraction=0.05, patience=epochs, verbose=1, **settings)
    began = time.perf_counter()
    completed = np.where(gone, model.fit(damaged).complete(), damaged)
    seconds = time.perf_counter() - began
    quality = psnr((completed - whole)[gone])
    biases = psnr((model.mean_ + model.row_bias_[:, None] + model.column_bias_ - whole)[gone])
    print(
        f"  {missing:.0%} missing: {quality:.1f} dB on the missing pixels (row and column biases alone {biases:.1f} dB)"
    )
    draw(
        [("observed", damaged), (f"completed, {quality:.1f} dB", completed), ("truth", whole)],
        output / "photograph.png",
    )
    return {
        "settings": {**settings, "missing": missing, "max_epochs": epochs},
        "psnr_of_missing_pixels": round(quality, 2),
        "psnr_of_biases": round(biases, 2),
        "best_epoch": model.best_epoch_,
        "seconds": round(seconds, 1),
    }


def draw(pictures: list[tuple[str, np.ndarray]], path: Path) -> None:
    """Grey pictures side by side; what is missing is red."""
    grey = plt.get_cmap("gray").with_extremes(bad="tab:red")
    figure, axes = plt.subplots(1, len(pictures), figsize=(5 * len(pictures), 3.8), layout="constrained")
    for axis, (title, picture) in zip(axes, pictures, strict=True):
        axis.imshow(np.ma.masked_invalid(picture), cmap=grey, vmin=0, vmax=1)
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
