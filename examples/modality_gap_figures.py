"""Figures of the modality gap: both modalities in two dimensions, and the gap against retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection


class Place(NamedTuple):
    """Gap and recall of a method: mean, and the ends of an interval (all the same for a single run)."""

    gap: tuple[float, float, float]
    recall: tuple[float, float, float]


def draw_projections(path: Path, embeddings: dict[str, tuple[Tensor, Tensor]], linked: int = 40) -> None:
    """Images and captions of each method in the plane of their two largest principal components.

    Args:
        path: PNG file.
        embeddings: title -> images (n, d), captions (n, d); row by row the same concept.
        linked: how many pairs are joined by a line.
    """
    columns = min(len(embeddings), 4)
    rows = -(-len(embeddings) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3.8 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(embeddings) :]:
        axis.set_visible(False)
    for axis, (title, (images, captions)) in zip(axes.flat, embeddings.items(), strict=False):
        flat = PCA(2, random_state=0).fit_transform(torch.cat([images, captions]).numpy())
        x, y = np.split(flat, 2)
        axis.add_collection(
            LineCollection(list(np.stack([x, y], 1)[:linked]), colors="grey", linewidths=0.4, alpha=0.6)
        )
        axis.scatter(*x.T, s=6, label="images")
        axis.scatter(*y.T, s=6, marker="^", label="captions")
        gap = torch.linalg.vector_norm(images.mean(0) - captions.mean(0)).item()
        axis.set(title=f"{title}\ngap {gap:.2f}", xticks=[], yticks=[])
        axis.set_aspect("equal", "datalim")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_gap_against_recall(path: Path, panels: dict[str, dict[str, Place]]) -> None:
    """Recall over gap, a point for each method and a panel for each set of pairs; whiskers are intervals."""
    figure, axes = plt.subplots(1, len(panels), figsize=(7.5 * len(panels), 5.5), layout="constrained", squeeze=False)
    for axis, (title, places) in zip(axes.flat, panels.items(), strict=True):
        for index, (label, (gap, recall)) in enumerate(places.items()):
            axis.errorbar(
                gap[0], 100 * recall[0], xerr=_whiskers(gap, 1), yerr=_whiskers(recall, 100), label=label,
                linestyle="none", elinewidth=0.8, color=plt.get_cmap("tab20")(index % 20), marker="osD"[index // 20],
                markersize=5,
            )  # fmt: skip
        axis.set(title=title, xlabel="gap (distance of the centroids)", ylabel="recall@1, both ways, %", xscale="log")
        axis.grid(alpha=0.3, which="both")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _whiskers(values: tuple[float, float, float], factor: float) -> list[list[float]]:
    mean, low, high = values
    return [[factor * (mean - low)], [factor * (high - mean)]]
