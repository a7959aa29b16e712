"""The figures of speed, memory and the modality gap, drawn from `benchmarks/results` alone.

python -m benchmarks.pages.benchmark_figures --output_dir runs/figures
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

from benchmarks.pages.drawing import Figures, draw
from benchmarks.result_files import result
from benchmarks.studies.modality_gap.methods import METHODS as GAP_METHODS
from training.results.figures import figure

SHAPES = {
    "384": "MiniLM shape\n384, 16 x 128",
    "768": "BERT-base shape\n768, 16 x 128",
    "2048": "Llama-1B block\n2048, 1 x 2048",
    "smollm2_135m": "SmolLM2-135M\n576, 4 x 256",
}
METHODS = {
    "frozen": "no adapter (limit)",
    "lora": "PEFT LoRA",
    "deep_lora": "Deep LoRA",
    "deep_lora_frozen": "Deep LoRA, frozen subspaces",
}
PARTS = {"unseen concepts, unseen vendor": "test", "training concepts, unseen vendor": "seen"}


class Place(NamedTuple):
    """Gap and recall of a method: mean and the ends of an interval."""

    gap: tuple[float, float, float]
    recall: tuple[float, float, float]


def draw_ratios(benchmark: str, value: str, label: str, path: Path) -> None:
    """Draw grouped bars of a ratio to LoRA for all shapes; whiskers are quartiles where there are repeats."""
    with figure(path, size=(9, 4)) as (axes,):
        positions = np.arange(len(SHAPES))
        measured = [result(f"{benchmark}_{shape}")["methods"] for shape in SHAPES]
        for index, (method, name) in enumerate(METHODS.items()):
            cells = [methods[method][value] for methods in measured]
            spreads = [cell if isinstance(cell, dict) else None for cell in cells]
            heights = np.array([cell["median"] if isinstance(cell, dict) else cell for cell in cells])
            errors = None
            if all(spreads):
                lower = heights - [cell["lower_quartile"] for cell in cells]
                errors = np.array([lower, [cell["upper_quartile"] for cell in cells] - heights])
            axes.bar(positions + 0.2 * (index - 1.5), heights, 0.18, yerr=errors, capsize=2, label=name)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xticks(positions, list(SHAPES.values()))
        axes.set_ylabel(label)
        axes.legend(ncols=4, fontsize="small", loc="lower center")


def draw_modality_gap(path: Path) -> None:
    """Draw recall@1 against the gap: a point for each method, a panel for each set of pairs; whiskers are intervals."""
    with figure(path, columns=len(PARTS), size=(7.5, 5.5), dpi=120) as panels:
        for axes, (title, part) in zip(panels, PARTS.items(), strict=True):
            for index, (label, (gap, recall)) in enumerate(places(part).items()):
                axes.errorbar(
                    gap[0], 100 * recall[0], xerr=_whiskers(gap, 1), yerr=_whiskers(recall, 100), label=label,
                    linestyle="none", elinewidth=0.8, color=matplotlib.colormaps["tab20"](index % 20),
                    marker="osD"[index // 20], markersize=5,
                )  # fmt: skip
            axes.set(
                title=title, xlabel="gap (distance of the centroids)", ylabel="recall@1, both ways, %", xscale="log"
            )
            axes.grid(alpha=0.3, which="both")
        handles, labels = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(handles, labels, loc="outside right center", fontsize=8)


def places(part: str) -> dict[str, Place]:
    """Read gap and recall of every method on one set of pairs."""
    return {
        GAP_METHODS[name].label if name in GAP_METHODS else name: Place(
            *(tuple(row[part][metric][key] for key in ("mean", "low", "high")) for metric in ("gap", "recall@1"))
        )
        for name, row in result("modality_gap")["frozen"].items()
        if part in row
    }


def _whiskers(values: tuple[float, float, float], factor: float) -> list[list[float]]:
    mean, low, high = values
    return [[factor * (mean - low)], [factor * (high - mean)]]


FIGURES: Figures = {
    "training_step.png": lambda path: draw_ratios(
        "training_step", "ratio_to_lora", "training step, time relative to PEFT LoRA", path
    ),
    "training_memory.png": lambda path: draw_ratios(
        "training_memory", "ratio_of_step_bytes_to_lora", "peak of a step, relative to PEFT LoRA", path
    ),
    "modality_gap.png": draw_modality_gap,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/figures"), help="default runs/figures")
    print(*draw(FIGURES, parser.parse_args().output_dir), sep="\n")


if __name__ == "__main__":
    main()
