"""What `few_shot_text.py` prints and writes: the table, `results.json` and the learning curves."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from few_shot_arguments import FewShotArguments
from few_shot_data import DEFAULT_DATASET, DEFAULT_MODEL
from few_shot_export import ExportCheck
from few_shot_training import Run
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from processes import processes
from rich.console import Console
from rich.table import Table

LABELS = {"deep_lora": "Deep LoRA", "lora": "LoRA"}
COLOURS = {"deep_lora": "#0072b2", "lora": "#d55e00"}
PACKAGES = ("deep-lora", "torch", "transformers", "peft", "accelerate")


def group_by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.method].append(run)
    return dict(groups)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, or the one value there is."""
    text = f"{fmean(values):.1f}"
    return f"{text} ± {stdev(values):.1f}" if len(values) > 1 else text


def print_table(runs: Sequence[Run], arguments: FewShotArguments) -> None:
    """One row for each method: means over the seeds, with the standard deviation of the accuracies."""
    table = Table(
        title=f"{arguments.num_train_samples} training sentences, {arguments.num_test_samples} test sentences, "
        f"rank {arguments.rank}, {arguments.max_steps} steps",
        caption=f"means over seeds {', '.join(map(str, arguments.seeds))} (± standard deviation); accuracies in %; "
        "wall seconds of training without evaluation; median milliseconds of a step",
    )
    table.add_column("method")
    for name in (
        "rate",
        "test\naccuracy",
        "validation\naccuracy",
        "final\ntraining\nloss",
        "trainable",
        "seconds",
        "ms /\nstep",
    ):
        table.add_column(name, justify="right")
    for method, group in group_by_method(runs).items():
        table.add_row(
            LABELS[method],
            f"{group[0].learning_rate:g}",
            mean_and_deviation([100 * run.test_accuracy for run in group]),
            mean_and_deviation([100 * run.validation_accuracy for run in group]),
            f"{fmean(run.final_training_loss for run in group):.4f}",
            f"{group[0].trainable_parameters:,}",
            f"{fmean(run.seconds for run in group):.0f}",
            f"{1000 * fmean(run.median_step_seconds for run in group):.0f}",
        )
    Console().print(table)


def describe_settings(arguments: FewShotArguments) -> dict[str, object]:
    """The arguments as run, without the folders of this machine: a path is cut down to its last part."""
    settings: dict[str, object] = asdict(arguments)
    del settings["output_dir"]
    settings["model"] = public_name(arguments.model, "==".join(DEFAULT_MODEL[:2]))
    settings["dataset"] = public_name(arguments.dataset, "==".join(DEFAULT_DATASET[:2]) + " (rotten_tomatoes)")
    return settings


def public_name(source: str | None, default: str) -> str:
    if source is None:
        return default
    return Path(source).name if Path(source).exists() or Path(source).is_absolute() else source


def write_results(path: Path, runs: Sequence[Run], export: ExportCheck | None, arguments: FewShotArguments) -> None:
    """All settings, versions, numbers of each seed and curves, as JSON."""
    summary = {
        method: {
            "test_accuracy_mean": fmean(run.test_accuracy for run in group),
            "test_accuracy_sd": stdev(run.test_accuracy for run in group) if len(group) > 1 else None,
        }
        for method, group in group_by_method(runs).items()
    }
    results = {
        "settings": describe_settings(arguments),
        "processes": processes().num_processes,
        "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
        "summary": summary,
        "lora_export": {**asdict(export), "agrees": export.agrees} if export else None,
        "runs": [asdict(run) for run in runs],
    }
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed (run from a checkout)"


def draw_curves(path: Path, runs: Sequence[Run], arguments: FewShotArguments) -> None:
    """Training loss and validation accuracy over the steps: a thin line for each seed, a thick one for the mean."""
    figure, (loss_axes, accuracy_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for method, group in group_by_method(runs).items():
        draw_method(loss_axes, method, [run.loss_curve for run in group])
        draw_method(accuracy_axes, method, [run.validation_curve for run in group])
    loss_axes.set(title="Training loss", ylabel="cross-entropy", yscale="log")
    accuracy_axes.set(title=f"Accuracy on {arguments.num_validation_samples} validation sentences", ylabel="accuracy")
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(
        f"Few-shot text classification: {arguments.num_train_samples} training sentences, rank {arguments.rank}, "
        f"{len(arguments.seeds)} seed{'s' if len(arguments.seeds) > 1 else ''} (thin), mean (thick)"
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_method(axes: Axes, method: str, curves: Sequence[Sequence[tuple[int, float]]]) -> None:
    steps = [step for step, _ in curves[0]]
    values = [[value for _, value in one] for one in curves]
    for one in values:
        axes.plot(steps, one, color=COLOURS[method], linewidth=0.8, alpha=0.5)
    mean = [fmean(at_step) for at_step in zip(*values, strict=True)]
    axes.plot(steps, mean, color=COLOURS[method], linewidth=2.2, label=LABELS[method])
