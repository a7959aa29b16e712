"""Figures of the few-shot study, drawn from `benchmarks/results` alone, each with its message as its title."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.few_shot.comparisons import (
    RULED,
    USUAL,
    best_one_rate,
    families,
    in_points,
    methods_of,
    overall,
    results,
    scores,
    task_of,
    title,
    tuned_method,
)
from benchmarks.pages.drawing import Figures
from benchmarks.pages.few_shot_tables import RANKS, RATE_TASKS, STEPS
from training.results.figures import figure

OURS, LORA, GRAY = "#1f5fa8", "#d9730d", "#8c8c8c"


def draw_settings(path: Path) -> None:
    """Draw differences to tuned LoRA with their intervals, setting by setting."""
    names = sorted(in_points(), key=lambda name: overall(name, RULED)["mean"])
    rival = best_one_rate()
    best = f"LoRA at {rival.rpartition(', ')[2]} everywhere"
    others = ((USUAL, GRAY, "LoRA at 1e-3 everywhere"), (rival, LORA, best))
    ours = (RULED, OURS, "Deep LoRA, nothing set")
    with figure(path, size=(8, 1.4 + 0.4 * len(names))) as (axes,):
        for (method, color, label), shift in zip((*others, ours), (-0.22, 0.22, 0), strict=True):
            have = [(row + shift, overall(name, method)) for row, name in enumerate(names)
                    if method in methods_of(name)]  # fmt: skip
            for row, gap in have:
                width = 2.2 if method == RULED else 1.0
                axes.plot([100 * gap["low"], 100 * gap["high"]], [row, row], color=color, linewidth=width, zorder=width)
                axes.plot(100 * gap["mean"], row, "o", color=color, markersize=6 if method == RULED else 4, zorder=3)
            axes.plot([], [], "o-", color=color, label=label)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(yticks=range(len(names)), yticklabels=list(map(title, names)), xlim=(-21, 8))
        axes.set_xlabel("points ahead of LoRA tuned for the setting, 95 % intervals")
        axes.set_title("Nothing set, and level with a LoRA tuned for each setting", loc="right")
        axes.legend(loc="center left", frameon=False)


def draw_rates(path: Path) -> None:
    """Draw the test score of word pairs against the learning rate."""
    found = families(RATE_TASKS[0], "rate ")
    with figure(path, size=(7, 3.8)) as (axes,):
        for family, color in (("LoRA", LORA), (RULED, OURS)):
            _curve(axes, found[family], color)
        last = max(found[RULED])
        axes.annotate("Deep LoRA", (last, _height(found[RULED][last])), (0, 8), color=OURS,
                      textcoords="offset points", ha="right")  # fmt: skip
        axes.annotate("LoRA", (1e-2, 12), color=LORA, ha="left", xytext=(12, 0), textcoords="offset points")
        axes.set(xscale="log", xlabel="learning rate", ylabel="SimLex-999, Spearman x 100", ylim=(-8, 66))
        axes.set_title("LoRA needs the right learning rate, Deep LoRA needs none", loc="left")


def draw_shapes(path: Path) -> None:
    """Draw the test score of word pairs against the rank, and against the length of the run."""
    with figure(path, columns=2, size=(4.6, 3.4), sharey=True) as (left, right):
        found = families(RANKS, "r=")
        for family, color, label, shift, end, place in (
            ("LoRA, 1e-3", GRAY, "LoRA at 1e-3", 1.06, max, (0, -64)),
            ("LoRA, 3e-3", LORA, "LoRA at 3e-3", 0.94, max, (0, 36)),
            (RULED, OURS, "Deep LoRA", 1, min, (8, 4)),
        ):
            _points(left, found[family], color, shift)
            _label(left, found[family], end(found[family]), label, color, place)
        left.set(xscale="log", xlabel="rank", ylabel="SimLex-999, Spearman x 100", ylim=(51, 61))
        ranks = sorted(found[RULED])
        left.set_xticks(ranks, [f"{rank:g}" for rank in ranks])
        names = {count: "simlex_64_linear" if count == 100 else f"simlex_64_{count}_steps_linear" for count in STEPS}
        names = {task_of(name)["steps"]: name for name in names.values() if name in results()}
        tuned = {count: scores(name, tuned_method(name)) for count, name in names.items()}
        ruled = {count: scores(name, RULED) for count, name in names.items()}
        for rows, color, label, shift, place in (
            (tuned, LORA, "LoRA, best rate of each length", 1.03, (-12, -52)),
            (ruled, OURS, "Deep LoRA", 0.97, (-8, 40)),
        ):
            _points(right, rows, color, shift)
            _label(right, rows, max(rows), label, color, place)
        right.set(xscale="log", xlabel="steps")
        right.set_xticks(list(names), [str(count) for count in names])
        for axes in (left, right):
            axes.minorticks_off()
        left.set_title("Any rank will do", loc="left")
        right.set_title("So will any number of steps", loc="left")


def _height(row: dict[str, Any]) -> float:
    return float(100 * row["mean"])


def _label(
    axes: Any, rows: dict[float, dict[str, Any]], at: float, text: str, color: str, place: tuple[int, int]
) -> None:
    """Write a curve's name beside one of its points, the last one to its left."""
    axes.annotate(text, (at, _height(rows[at])), place, color=color, textcoords="offset points",
                  ha="right" if at == max(rows) else "left")  # fmt: skip


def _curve(axes: Any, rows: dict[float, dict[str, Any]], color: str) -> None:
    """Draw means in points with 95 % intervals."""
    low, high = ([100 * row[end] for row in rows.values()] for end in ("low", "high"))
    axes.fill_between(list(rows), low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(list(rows), [_height(row) for row in rows.values()], marker="o", color=color)


def _points(axes: Any, rows: dict[float, dict[str, Any]], color: str, shift: float) -> None:
    """Draw means in points with 95 % intervals, a little to the side, so that no interval hides another one."""
    ends = [[100 * abs(row[end] - row["mean"]) for row in rows.values()] for end in ("low", "high")]
    places, heights = [shift * place for place in rows], [_height(row) for row in rows.values()]
    axes.errorbar(places, heights, yerr=ends, marker="o", markersize=5, color=color, elinewidth=1, capsize=2)


FIGURES: Figures = {
    "few_shot_settings.svg": draw_settings,
    "few_shot_rates.svg": draw_rates,
    "few_shot_shapes.svg": draw_shapes,
}
