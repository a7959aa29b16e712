"""Figures of the few-shot campaign, drawn from `benchmarks/results/few_shot_*.json` alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from evidence_tables import FAMILIES, UNTUNED, ranks, rates, settings_of
from markdown_tables import result

COLOURS = {"LoRA": "tab:orange", "LoRA, tuned": "tab:orange", "Deep LoRA": "tab:blue"}
COLOURS |= {FAMILIES[2]: "tab:green", FAMILIES[3]: "tab:purple", UNTUNED[2]: "tab:red"}
TASKS = {"simlex": "SimLex-999, Spearman x 100", "rotten_tomatoes": "Rotten Tomatoes, accuracy in %"}
SIZES = (64, 256)
FOLLOWED = ("LoRA, tuned", *UNTUNED)
CURVES = {"simlex_64": "64 word pairs", "simlex_256": "256 word pairs"}


def with_intervals(axes: Axes, places: list[float], scores: list[dict[str, float]], label: str) -> None:
    """Means in points with 95 % intervals."""
    heights = [100 * score["mean"] for score in scores]
    errors = [[100 * (s["mean"] - s["low"]) for s in scores], [100 * (s["high"] - s["mean"]) for s in scores]]
    axes.errorbar(places, heights, yerr=errors, marker="o", capsize=3, label=label, color=COLOURS.get(label))


def draw_samples() -> Any:
    """Score against the number of training samples."""
    figure, panels = plt.subplots(1, len(TASKS), figsize=(8, 3.2), layout="constrained")
    for axes, (task, label) in zip(panels, TASKS.items(), strict=True):
        measured = [result(f"few_shot_{task}_{size}")["methods"] for size in SIZES]
        for shift, method in enumerate(name for name in measured[0] if all(name in methods for methods in measured)):
            places = [size * 1.05**shift for size in SIZES]
            with_intervals(axes, places, [methods[method]["test"] for methods in measured], method)
        axes.set(xscale="log", xlabel="training samples", ylabel=label, xticks=SIZES, xticklabels=SIZES)
        axes.minorticks_off()
    panels[0].legend(fontsize="small")
    return figure


def draw_family(values: dict[str, dict[float, dict[str, float]]], label: str) -> Any:
    """Mean score of LoRA and Deep LoRA against a rank or a rate; what failed to train falls out of the picture."""
    figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
    for family, scores in values.items():
        heights = [100 * score["mean"] for score in scores.values()]
        axes.plot(list(scores), heights, marker="o", label=family, color=COLOURS[family])
    ticks = list(values[FAMILIES[0]])
    axes.set(xscale="log", xlabel=label, ylabel=TASKS["simlex"], xticks=ticks, xticklabels=ticks, ylim=(40, 60))
    axes.minorticks_off()
    axes.legend(fontsize="small")
    return figure


def draw_overfitting() -> Any:
    """Training loss and test score over the steps."""
    figure, panels = plt.subplots(2, len(CURVES), figsize=(8, 4.8), layout="constrained", sharex="col")
    for column, (name, title) in enumerate(CURVES.items()):
        steps = settings_of(name)["task"]["steps"]
        methods = result(f"few_shot_{name}")["methods"]
        for method, row in [(method, methods[method]) for method in FOLLOWED]:
            window = steps // len(row["loss"])
            middles = [window * (position + 0.5) for position in range(len(row["loss"]))]
            panels[0, column].plot(middles, row["loss"], label=method, color=COLOURS[method])
            points = row["curve"]
            scores = [100 * point["test"] for point in points]
            panels[1, column].plot([p["step"] for p in points], scores, marker="o", color=COLOURS[method])
        panels[0, column].set(title=title, yscale="log", ylabel="training loss")
        panels[0, column].legend(fontsize="small")
        panels[1, column].set(xlabel="step", ylabel=TASKS["simlex"])
    return figure


FIGURES: dict[str, Callable[[], Any]] = {
    "few_shot_samples": draw_samples,
    "few_shot_ranks": lambda: draw_family(ranks(), "rank, at rate 1e-3"),
    "few_shot_rates": lambda: draw_family(rates(), "rate, at rank 8"),
    "few_shot_overfitting": draw_overfitting,
}


def draw_all(folder: Path) -> list[Path]:
    """One PNG for each figure; the same results give the same bytes with the same matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in FIGURES.items():
        figure = draw()
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=100, metadata={"Software": None})
        plt.close(figure)
    return paths
