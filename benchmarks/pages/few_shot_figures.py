"""Figures of the few-shot study, drawn from `benchmarks/results` alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.few_shot.comparisons import (
    BASELINE,
    BOTH,
    DEEPER,
    FALLING,
    OLD,
    RANK,
    RULED,
    TRACKING,
    UNTUNED,
    UNTUNED_BASELINE,
    comparisons,
    family_means,
    in_points,
    kind_of,
    methods_of,
    rank_shares,
    ranked,
    results,
    settings_of,
    title,
)  # fmt: skip
from benchmarks.pages.drawing import Figures
from benchmarks.result_files import result
from training.results.figures import figure

COLORS = {"LoRA": "tab:orange", BASELINE: "tab:orange", UNTUNED: "tab:blue", UNTUNED_BASELINE: "tab:olive"}
COLORS |= {"LoRA, tuned for 100 steps": "tab:orange", OLD: "tab:purple", BOTH: "tab:cyan", "rsLoRA": "tab:green"}
COLORS |= {DEEPER: "tab:red", "LoRA, 1e-3": "tab:orange", "LoRA, 3e-3": "tab:olive", "Deep LoRA, tuned": "tab:blue"}
COLORS |= {RULED: "black"}
TASKS = {
    "simlex": "SimLex-999, Spearman x 100", "rare_words": "Rare Words, Spearman x 100", "men": "MEN, Spearman x 100",
    "rotten_tomatoes": "Rotten Tomatoes, accuracy in %", "stsb": "STS-B, Pearson x 100",
}  # fmt: skip
DPI = 100
AXES, SHOWN = {"ranks": "rank", "rates": "rate at the start"}, 18  # points below the best that are in the picture
FOLLOWED = (BASELINE, RULED, UNTUNED, DEEPER, BOTH, OLD)


def with_intervals(axes: Any, places: list[float], scores: list[dict[str, float]], label: str) -> None:
    """Draw means in points with 95 % intervals."""
    heights = [100 * score["mean"] for score in scores]
    errors = [[100 * (s["mean"] - s["low"]) for s in scores], [100 * (s["high"] - s["mean"]) for s in scores]]
    axes.errorbar(places, heights, yerr=errors, marker="o", capsize=3, label=label, color=COLORS.get(label))


def sizes_of(task: str, ending: str) -> dict[int, str]:
    """Map the number of samples to the setting that is named by task, number and ending alone."""
    sizes = sorted({settings_of(name)["task"]["samples"] for name in comparisons()})
    return {size: f"{task}_{size}{ending}" for size in sizes if f"{task}_{size}{ending}" in comparisons()}


def draw_samples(path: Path, ending: str) -> None:
    """Draw the score against the number of training samples."""
    tasks = {task: label for task, label in TASKS.items() if sizes_of(task, ending)}
    with _panels(path, len(tasks), columns=3, size=(3.5, 3.2)) as panels:
        for axes, (task, label) in zip(panels, tasks.items(), strict=True):
            _draw_sizes(axes, sizes_of(task, ending), label)
        _legend_above(panels)


def _draw_sizes(axes: Any, sizes: dict[int, str], label: str) -> None:
    """Draw one task: a point for each number of samples and method."""
    used = {method for name in sizes.values() for method in methods_of(name)}
    for shift, method in enumerate(m for m in (*FOLLOWED, UNTUNED_BASELINE) if m in used):
        have = [size for size in sizes if method in methods_of(sizes[size])]
        scores = [methods_of(sizes[size])[method]["test"] for size in have]
        with_intervals(axes, [size * 1.06**shift for size in have], scores, method)
    axes.set(xscale="log", xlabel="training samples", ylabel=label, xticks=list(sizes), xticklabels=list(sizes))
    axes.minorticks_off()


@contextmanager
def _panels(path: Path, count: int, columns: int, size: tuple[float, float]) -> Iterator[list[Any]]:
    """Give so many panels, in rows; those left over in the last row are hidden."""
    columns = min(columns, count)
    with figure(path, -(-count // columns), columns, size=size, dpi=DPI) as panels:
        for axes in panels[count:]:
            axes.set_visible(False)
        yield panels[:count]


def _legend_above(panels: list[Any]) -> None:
    """Draw one legend for all panels, with each label once."""
    drawn = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    panels[0].figure.legend(drawn.values(), drawn.keys(), fontsize="small", loc="outside upper center", ncols=3)


def draw_differences(path: Path) -> None:
    """Draw differences to tuned LoRA with their intervals, setting by setting."""
    names = in_points()
    with figure(path, size=(7.5, 0.9 + 0.5 * len(names)), dpi=DPI) as (axes,):
        for shift, method in enumerate((RULED, UNTUNED, DEEPER, UNTUNED_BASELINE)):
            have = [row for row, name in enumerate(names) if method in methods_of(name)]
            gaps = [methods_of(names[row])[method]["difference"] for row in have]
            means = [100 * gap["mean"] for gap in gaps]
            errors = [[100 * (g["mean"] - g["low"]) for g in gaps], [100 * (g["high"] - g["mean"]) for g in gaps]]
            places = [-row - 0.16 * shift for row in have]
            axes.errorbar(means, places, xerr=errors, fmt="o", capsize=3, color=COLORS[method], label=method)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(yticks=[-row for row in range(len(names))], yticklabels=[title(name) for name in names])
        axes.set_xlabel("points ahead of tuned LoRA")
        _legend_above([axes])


def draw_family(path: Path, name: str) -> None:
    """Draw the mean score against a rank or a rate; methods that failed to train lie outside the picture."""
    values = family_means(name)
    with figure(path, size=(4.5, 3.2), dpi=DPI) as (axes,):
        for family in values:
            scores = values[family]
            heights = [100 * score["mean"] for score in scores.values()]
            if color := COLORS.get(family):
                axes.plot(list(scores), heights, marker="o", label=family, color=color)
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


def draw_overfitting(path: Path) -> None:
    """Draw training loss and test score over the steps, for settings that were measured along the way."""
    followed = [name for name in results() if UNTUNED in methods_of(name) and "ablations" not in name]
    names = [name for name in followed if len(methods_of(name)[UNTUNED]["curve"]) > 2]
    with figure(path, 2, len(names), size=(5, 2.5), dpi=DPI) as panels:
        for name, upper, lower in zip(names, panels, panels[len(names) :], strict=False):
            methods = methods_of(name)
            for method in [method for method in methods if method in COLORS]:
                losses, points = methods[method]["loss"], methods[method]["curve"]
                window = settings_of(name)["task"]["steps"] / len(losses)
                middles = [window * (position + 0.5) for position in range(len(losses))]
                upper.plot(middles, losses, label=method, color=COLORS[method])
                scores = [100 * point["test"] for point in points]
                lower.plot([p["step"] for p in points], scores, marker="o", color=COLORS[method])
            upper.set(title=title(name), yscale="log", ylabel="training loss")
            upper.title.set_fontsize("medium")
            lower.set(xlabel="step", ylabel="test score x 100")
        panels[0].legend(fontsize="x-small")


def draw_effective_ranks(path: Path) -> None:
    """Draw how many of the modules have which effective rank."""
    names = ranked()
    with _panels(path, len(names), columns=4, size=(3.2, 2.6)) as panels:
        for axes, name in zip(panels, names, strict=True):
            for place, method in enumerate(m for m in FOLLOWED if "ranks" in methods_of(name).get(m, {})):
                heights = [100 * share for share in rank_shares(name, method)]
                places = [rank + 0.2 * place for rank in range(RANK + 1)]
                axes.bar(places, heights, width=0.2, color=COLORS[method], label=method)
            axes.set(title=title(name), xlabel="effective rank of 8", ylabel="% of modules")
            axes.title.set_fontsize("small")
        _legend_above(panels)


def draw_tracking(path: Path) -> None:
    """Draw losses of wide, compressed and narrow, and how much of the wide update is in the compressed subspace."""
    found = result(TRACKING)
    with figure(path, columns=2, size=(4, 3.2), dpi=DPI) as (left, right):
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


FIGURES: Figures = {
    "few_shot_differences.png": draw_differences,
    "few_shot_samples.png": lambda path: draw_samples(path, ""),
    "few_shot_samples_falling.png": lambda path: draw_samples(path, FALLING),
    **{f"few_shot_{name}.png": lambda path, name=name: draw_family(path, name) for name in results() if kind_of(name)},
    "few_shot_overfitting.png": draw_overfitting,
    "few_shot_effective_ranks.png": draw_effective_ranks,
    "few_shot_tracking.png": draw_tracking,
}
