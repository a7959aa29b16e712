"""Draw what was measured, from `benchmarks/results` alone.

python benchmarks/figures.py --output_dir runs/figures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from markdown_tables import result
from modality_gap_figures import Place, draw_gap_against_recall
from modality_gap_methods import METHODS as GAP_METHODS

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
    "deep_lora_gamma_0": "Deep LoRA, gamma = 0",
}


def draw(benchmark: str, value: str, label: str, path: Path) -> None:
    """Grouped bars of a ratio to LoRA for all shapes; whiskers are quartiles where there are repeats."""
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(path)


def draw_modality_gap(path: Path) -> None:
    """Recall@1 over the gap for every method, with intervals, on unseen and on seen concepts."""
    measured = result("modality_gap")["frozen"]
    panels = {}
    for title, part in (("unseen concepts, unseen vendor", "test"), ("training concepts, unseen vendor", "seen")):
        panels[title] = {
            GAP_METHODS[name].label if name in GAP_METHODS else name: Place(
                *(tuple(row[part][metric][key] for key in ("mean", "low", "high")) for metric in ("gap", "recall@1"))
            )
            for name, row in measured.items()
            if part in row
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_gap_against_recall(path, panels)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/figures"), help="default runs/figures")
    folder = parser.parse_args().output_dir
    draw("training_step", "ratio_to_lora", "training step, time relative to PEFT LoRA", folder / "training_step.png")
    draw(
        "training_memory", "ratio_of_step_bytes_to_lora", "peak of a step, relative to PEFT LoRA",
        folder / "training_memory.png",
    )  # fmt: skip
    draw_modality_gap(folder / "modality_gap.png")


if __name__ == "__main__":
    main()
