"""Figures of the few-shot campaign, drawn from `benchmarks/results` alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evidence_leaving import RANK, TRACKING, rank_shares, ranked
from evidence_tables import (
    BASELINE,
    BOTH,
    BOUNDED,
    BOUNDED_DEEPER,
    BOUNDED_LORA,
    DEEPER,
    FALLING,
    LIMITED,
    LIMITED_DEEPER,
    LIMITED_LORA,
    OLD,
    UNTUNED,
    UNTUNED_BASELINE,
    comparisons,
    family_means,
    in_points,
    kind_of,
    methods_of,
    results,
    settings_of,
    title,
)  # fmt: skip
from markdown_tables import result

COLOURS = {"LoRA": "tab:orange", BASELINE: "tab:orange", UNTUNED: "tab:blue", UNTUNED_BASELINE: "tab:olive"}
COLOURS |= {"LoRA, tuned for 100 steps": "tab:orange", OLD: "tab:purple", BOTH: "tab:cyan", "rsLoRA": "tab:green"}
COLOURS |= {DEEPER: "tab:red", BOUNDED: "tab:brown", BOUNDED_DEEPER: "tab:purple", BOUNDED_LORA: "tab:gray"}
COLOURS |= {
    LIMITED: "black",
    LIMITED_LORA: "goldenrod",
    LIMITED_DEEPER: "tab:pink",
    "LoRA, 1e-3": "tab:orange",
    "LoRA, 3e-3": "tab:olive",
    "Deep LoRA, tuned": "tab:blue",
}
TASKS = {
    "simlex": "SimLex-999, Spearman x 100", "rare_words": "Rare Words, Spearman x 100", "men": "MEN, Spearman x 100",
    "rotten_tomatoes": "Rotten Tomatoes, accuracy in %", "stsb": "STS-B, Pearson x 100",
}  # fmt: skip
AXES, SHOWN = {"ranks": "rank", "rates": "rate at the start"}, 18  # points below the best that are in the picture
FOLLOWED = (BASELINE, UNTUNED, DEEPER, BOTH, OLD)


def with_intervals(axes: Axes, places: list[float], scores: list[dict[str, float]], label: str) -> None:
    """Means in points with 95 % intervals."""
    heights = [100 * score["mean"] for score in scores]
    errors = [[100 * (s["mean"] - s["low"]) for s in scores], [100 * (s["high"] - s["mean"]) for s in scores]]
    axes.errorbar(places, heights, yerr=errors, marker="o", capsize=3, label=label, color=COLOURS.get(label))


def sizes_of(task: str, ending: str) -> dict[int, str]:
    """Number of samples -> the settings called by task, number and ending alone."""
    sizes = sorted({settings_of(name)["task"]["samples"] for name in comparisons()})
    return {size: f"{task}_{size}{ending}" for size in sizes if f"{task}_{size}{ending}" in comparisons()}


def draw_samples(ending: str) -> Any:
    """Score against the number of training samples."""
    tasks = {task: label for task, label in TASKS.items() if sizes_of(task, ending)}
    figure, panels = _panels(len(tasks), columns=3, width=3.5, height=3.2)
    for axes, (task, label) in zip(panels, tasks.items(), strict=False):
        sizes = sizes_of(task, ending)
        used = {method for name in sizes.values() for method in methods_of(name)}
        for shift, method in enumerate(m for m in (*FOLLOWED, LIMITED_DEEPER, UNTUNED_BASELINE) if m in used):
            have = [size for size in sizes if method in methods_of(sizes[size])]
            scores = [methods_of(sizes[size])[method]["test"] for size in have]
            with_intervals(axes, [size * 1.06**shift for size in have], scores, method)
        axes.set(xscale="log", xlabel="training samples", ylabel=label, xticks=list(sizes), xticklabels=list(sizes))
        axes.minorticks_off()
    _legend_above(figure, panels)
    return figure


def _panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """At least so many panels, in rows; those that are left over are hidden."""
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns, height * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    return figure, list(panels.flat)


def _legend_above(figure: Figure, panels: list[Axes]) -> None:
    """One legend for all panels, each label once."""
    drawn = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), fontsize="small", loc="outside upper center", ncols=3)


def draw_differences() -> Any:
    """Differences to tuned LoRA with their intervals, setting by setting."""
    names = in_points()
    figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.5 * len(names)), layout="constrained")
    for shift, method in enumerate((UNTUNED, DEEPER, LIMITED, LIMITED_DEEPER, UNTUNED_BASELINE)):
        have = [row for row, name in enumerate(names) if method in methods_of(name)]
        gaps = [methods_of(names[row])[method]["difference"] for row in have]
        means = [100 * gap["mean"] for gap in gaps]
        errors = [[100 * (g["mean"] - g["low"]) for g in gaps], [100 * (g["high"] - g["mean"]) for g in gaps]]
        places = [-row - 0.16 * shift for row in have]
        axes.errorbar(means, places, xerr=errors, fmt="o", capsize=3, color=COLOURS[method], label=method)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(yticks=[-row for row in range(len(names))], yticklabels=[title(name) for name in names])
    axes.set_xlabel("points ahead of tuned LoRA")
    figure.legend(fontsize="small", loc="outside upper center", ncols=3)
    return figure


def draw_family(name: str) -> Any:
    """Mean score against a rank or a rate; what failed to train falls out of the picture."""
    values = family_means(name)
    figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
    for family in values:
        scores = values[family]
        heights = [100 * score["mean"] for score in scores.values()]
        if colour := COLOURS.get(family):
            axes.plot(list(scores), heights, marker="o", label=family, color=colour)
    ticks = sorted({value for scores in values.values() for value in scores})
    best = max(score["mean"] for scores in values.values() for score in scores.values())
    labels = [f"{tick:g}" if tick >= 1e-3 else f"{tick:.0e}".replace("e-0", "e-") for tick in ticks]
    axes.set(xscale="log", xticks=ticks, xticklabels=labels)
    axes.set(xlabel=AXES[str(kind_of(name))], ylabel=TASKS[settings_of(name)["task"]["name"]])
    axes.set(ylim=(100 * best - SHOWN, 100 * best + 2), title=title(name))
    axes.title.set_fontsize("small")
    axes.tick_params(axis="x", labelsize="x-small")
    axes.minorticks_off()
    axes.legend(fontsize="x-small")
    return figure


def draw_overfitting() -> Any:
    """Training loss and test score over the steps, of the settings that were measured along the way."""
    followed = [name for name in results() if UNTUNED in methods_of(name) and "ablations" not in name]
    names = [name for name in followed if len(methods_of(name)[UNTUNED]["curve"]) > 2]
    figure, panels = plt.subplots(2, len(names), figsize=(5 * len(names), 5), layout="constrained", squeeze=False)
    for column, name in enumerate(names):
        methods = methods_of(name)
        for method in [method for method in methods if method in COLOURS]:
            losses, points = methods[method]["loss"], methods[method]["curve"]
            window = settings_of(name)["task"]["steps"] / len(losses)
            middles = [window * (position + 0.5) for position in range(len(losses))]
            panels[0, column].plot(middles, losses, label=method, color=COLOURS[method])
            scores = [100 * point["test"] for point in points]
            panels[1, column].plot([p["step"] for p in points], scores, marker="o", color=COLOURS[method])
        panels[0, column].set(title=title(name), yscale="log", ylabel="training loss")
        panels[0, column].title.set_fontsize("medium")
        panels[1, column].set(xlabel="step", ylabel="test score x 100")
    panels[0, 0].legend(fontsize="x-small")
    return figure


def draw_effective_ranks() -> Any:
    """How many of the modules have which effective rank."""
    names = ranked()
    figure, panels = _panels(len(names), columns=4, width=3.2, height=2.6)
    for axes, name in zip(panels, names, strict=False):
        for place, method in enumerate(m for m in FOLLOWED if "ranks" in methods_of(name).get(m, {})):
            heights = [100 * share for share in rank_shares(name, method)]
            places = [rank + 0.2 * place for rank in range(RANK + 1)]
            axes.bar(places, heights, width=0.2, color=COLOURS[method], label=method)
        axes.set(title=title(name), xlabel="effective rank of 8", ylabel="% of modules")
        axes.title.set_fontsize("small")
    _legend_above(figure, panels)
    return figure


def draw_tracking() -> Any:
    """Losses of wide, compressed and narrow; how much of the wide update lies in the compressed subspace."""
    found = result(TRACKING)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for method, losses in found["losses"].items():
        means = [sum(losses[max(0, step - 9) : step + 1]) / min(step + 1, 10) for step in range(len(losses))]
        left.plot(means, label=method)
    left.set(xlabel="step", ylabel="training loss, mean of ten", yscale="log")
    left.legend(fontsize="x-small")
    for side in ("left", "right", "chance"):
        points = found["overlaps"]
        right.plot([p["step"] for p in points], [p[side] for p in points], marker="o", label=side)
    right.set(xlabel="step", ylabel="share in the compressed subspace", ylim=(0, 1))
    right.legend(fontsize="small", title="singular vectors")
    return figure


FIGURES: dict[str, Callable[[], Any]] = {
    "few_shot_differences": draw_differences,
    "few_shot_samples": lambda: draw_samples(""),
    "few_shot_samples_falling": lambda: draw_samples(FALLING),
    **{f"few_shot_{name}": lambda name=name: draw_family(name) for name in results() if kind_of(name)},
    "few_shot_overfitting": draw_overfitting,
    "few_shot_effective_ranks": draw_effective_ranks,
    "few_shot_tracking": draw_tracking,
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
