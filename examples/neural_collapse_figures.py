"""Figures of neural collapse: curves over steps, and features on the sphere in three dimensions."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from neural_collapse_training import Point
from torch import Tensor

from collapse.theory import unit_rows

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {"nc1": "NC1", "nc2": "NC2", "nc3": "NC3", "test_accuracy": "test accuracy"}


def draw_curves(path: Path, curves: dict[str, list[Point]]) -> None:
    """One panel for each of NC1 (logarithmic), NC2, NC3 and test accuracy."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.4), layout="constrained")
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for label, points in curves.items():
            axis.plot([p.step for p in points], [p.metrics[name] for p in points], label=label)
        axis.set(title=title, xlabel="step", yscale="log" if name == "nc1" else "linear")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_simplex(path: Path, pictures: dict[str, tuple[Tensor, Tensor, Tensor]]) -> None:
    """Unit features as points and class vectors as arrows, one sphere for each picture.

    Args:
        path: PNG file.
        pictures: title -> features (n, 3), labels (n,), class vectors (K, 3).
    """
    figure = plt.figure(figsize=(5 * len(pictures), 4.6), layout="constrained")
    turn, tilt = torch.meshgrid(torch.linspace(0, 2 * torch.pi, 40), torch.linspace(0, torch.pi, 20), indexing="ij")
    sphere = [(tilt.sin() * turn.cos()).numpy(), (tilt.sin() * turn.sin()).numpy(), tilt.cos().numpy()]
    for index, (title, (features, labels, vectors)) in enumerate(pictures.items(), start=1):
        axis = figure.add_subplot(1, len(pictures), index, projection="3d")
        axis.plot_wireframe(*sphere, linewidth=0.2, color="grey", alpha=0.5)
        axis.scatter(*unit_rows(features).T.numpy(), c=labels.numpy(), cmap="tab10", vmax=9, s=8)
        for row in unit_rows(vectors).numpy():
            axis.plot(*[[0, value] for value in row], color="black", linewidth=1.5)
        axis.set(title=title, xticks=[], yticks=[], zticks=[], box_aspect=(1, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
