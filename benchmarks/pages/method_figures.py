"""The pictures on top of the pages of `deep_lora`, `collapse` and `modality`, from the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages.drawing import Figures
from benchmarks.result_files import result
from training.results.figures import figure

OURS, OTHERS, GRAY = "#1f5fa8", "#d9730d", "#8c8c8c"
COLLAPSE = {"cross_entropy": ("plain head", OTHERS), "normalized scale=3": ("normalized head, scale 3", OURS)}
STARTS = {"learned from 0.07": "temperature\nlearned from 0.07", "learned from 0.01": "temperature\nlearned from 0.01"}
STATES = {
    "as trained": ("learnable", "learnable from 0.01"),
    "centered": ("mean shift of learnable", "mean shift of learnable from 0.01"),
}
SHARES = {
    "right": ("right singular vectors, in V", OURS),
    "left": ("left singular vectors, in U", "#6b9bd1"),
    "chance": ("in a random subspace", GRAY),
}
FORMS = {
    "wide, rate 1e-3": ("wide", OTHERS),
    "compressed, the paper's rates": ("compressed", "#6b9bd1"),
    "compressed, start 0.3": ("compressed, our larger start", OURS),
}
WINDOW = 10  # steps in a mean of the losses: batches differ more than the forms


def draw_subspaces(path: Path) -> None:
    """Draw how much of the wide update lies in the subspace of the first gradient, and the losses of both forms."""
    found = result("tracking_wide")
    with figure(path, columns=2, size=(4.6, 3.4)) as (left, right):
        steps = [point["step"] for point in found["overlaps"]]
        for name, (label, color) in SHARES.items():
            heights = [100 * point[name] for point in found["overlaps"]]
            left.plot(steps, heights, "o-", color=color, markersize=4)
            _named(left, label, (48, max(heights) + 0.4), color)
        left.set(xlabel="step", ylabel="% of the update's directions", ylim=(0, 41))
        left.set_title("The first gradient points to part of the update", loc="left", fontsize=10.5)
        for name, (label, color) in FORMS.items():
            losses = np.array(found["losses"][name]).reshape(-1, WINDOW).mean(1)
            right.plot(np.arange(len(losses)) * WINDOW + WINDOW / 2, losses, "o-", color=color, markersize=4)
            _named(right, label, LABELS[name], color)
        right.set(xlabel="step", ylabel="training loss", yscale="log", ylim=(0.004, 0.3))
        right.set_title("and the small chain learns there", loc="left", fontsize=10.5)


LABELS = {
    "wide, rate 1e-3": (66, 0.13),
    "compressed, the paper's rates": (84, 0.031),
    "compressed, start 0.3": (47, 0.012),
}


def draw_collapse(path: Path) -> None:
    """Draw NC1 of the training features and test accuracy while two heads train: means over seeds, and every seed."""
    runs = result("neural_collapse_images")["runs"]
    with figure(path, columns=2, size=(4.6, 3.4)) as panels:
        for method, (label, color) in COLLAPSE.items():
            curves = [run["curve"] for name, run in runs.items() if name.startswith(f"final | {method} |")]
            for axes, metric, factor in zip(panels, ("nc1", "test_accuracy"), (1, 100), strict=True):
                values = factor * np.array([curve[metric] for curve in curves])
                axes.plot(curves[0]["step"], values.T, color=color, alpha=0.25, linewidth=0.8)
                axes.plot(curves[0]["step"], values.mean(0), color=color)
            _named(panels[0], label, (620, {OTHERS: 1.4, OURS: 0.19}[color]), color)
        panels[0].set(xlabel="step", ylabel="NC1 of the training features", yscale="log")
        panels[0].set_title("A normalized head collapses sooner and further", loc="left", fontsize=10.5)
        panels[1].set(xlabel="step", ylabel="test accuracy, %", ylim=(40, 90))
        panels[1].set_title("at the same accuracy in the end", loc="left", fontsize=10.5)


def draw_centering(path: Path) -> None:
    """Draw gap and recall of trained models, as they are and with each modality's mean taken off, with intervals."""
    rows = result("modality_gap")["frozen"]
    with figure(path, columns=2, size=(4.6, 3.4)) as panels:
        for axes, metric, factor in zip(panels, ("gap", "recall@1"), (1, 100), strict=True):
            for index, ((label, methods), color) in enumerate(zip(STATES.items(), (OTHERS, OURS), strict=True)):
                cells = [rows[method]["test"][metric] for method in methods]
                heights = factor * np.array([cell["mean"] for cell in cells])
                ends = factor * np.array([[cell["low"], cell["high"]] for cell in cells]).T
                places = np.arange(len(methods)) + 0.36 * (index - 0.5)
                axes.bar(places, heights, 0.34, yerr=abs(ends - heights), capsize=2, color=color)
                for place, height in zip(places, ends[1], strict=True):
                    axes.annotate(label, (place, height), (0, 3), textcoords="offset points", ha="center",
                                  fontsize="small", color=color)  # fmt: skip
            axes.set_xticks(range(len(STARTS)), list(STARTS.values()))
            axes.margins(y=0.12)
        panels[0].set_ylabel("distance of the centroids")
        panels[0].set_title("Centering closes the gap without training", loc="left", fontsize=10.5)
        panels[1].set_ylabel("recall@1 of 400, both ways, %")
        panels[1].set_title("and retrieval does not suffer", loc="left", fontsize=10.5)


def _named(axes: Any, label: str, place: tuple[float, float], color: str) -> None:
    axes.annotate(label, place, (0, 5), textcoords="offset points", ha="center", fontsize="small", color=color)


FIGURES: Figures = {
    "subspaces.svg": draw_subspaces,
    "neural_collapse.svg": draw_collapse,
    "centering.svg": draw_centering,
}
