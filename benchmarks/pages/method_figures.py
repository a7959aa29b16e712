"""The pictures on top of the pages of `collapse` and `modality`, from the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.pages.drawing import Figures
from benchmarks.result_files import result
from training.results.figures import figure

COLLAPSE = {"cross_entropy": "plain head", "normalized scale=3": "normalized head, scale 3"}
STARTS = ("learned from 0.07", "learned from 0.01")
STATES = {
    "as trained": ("learnable", "learnable from 0.01"),
    "means taken off": ("mean shift of learnable", "mean shift of learnable from 0.01"),
}


def draw_collapse(path: Path) -> None:
    """Draw NC1 of the training features and test accuracy while two heads train: means over seeds, and every seed."""
    runs = result("neural_collapse_images")["runs"]
    with figure(path, columns=2, size=(4.2, 3.2), dpi=110) as panels:
        for index, (method, label) in enumerate(COLLAPSE.items()):
            curves = [run["curve"] for name, run in runs.items() if name.startswith(f"final | {method} |")]
            for axes, metric, factor in zip(panels, ("nc1", "test_accuracy"), (1, 100), strict=True):
                values = factor * np.array([curve[metric] for curve in curves])
                axes.plot(curves[0]["step"], values.T, color=f"C{index}", alpha=0.25, linewidth=0.8)
                axes.plot(curves[0]["step"], values.mean(0), color=f"C{index}", label=label)
        panels[0].set(xlabel="step", ylabel="NC1 of training features", yscale="log")
        panels[1].set(xlabel="step", ylabel="test accuracy, %", ylim=(60, 90))
        panels[0].legend(fontsize="small")


def draw_centering(path: Path) -> None:
    """Draw gap and recall of trained models, as they are and with each modality's mean taken off, with intervals."""
    rows = result("modality_gap")["frozen"]
    with figure(path, columns=2, size=(4.2, 3.2), dpi=110) as panels:
        for axes, metric, factor in zip(panels, ("gap", "recall@1"), (1, 100), strict=True):
            for index, (label, methods) in enumerate(STATES.items()):
                cells = [rows[method]["test"][metric] for method in methods]
                heights = factor * np.array([cell["mean"] for cell in cells])
                ends = factor * np.array([[cell["low"], cell["high"]] for cell in cells]).T
                places = np.arange(len(methods)) + 0.36 * (index - 0.5)
                axes.bar(places, heights, 0.34, yerr=abs(ends - heights), capsize=2, label=label)
            axes.set_xticks(range(len(STARTS)), STARTS)
        panels[0].set_ylabel("gap (distance of the centroids)")
        panels[1].set_ylabel("recall@1 of 400, both ways, %")
        panels[0].legend(fontsize="small")


FIGURES: Figures = {"neural_collapse.png": draw_collapse, "centering.png": draw_centering}
