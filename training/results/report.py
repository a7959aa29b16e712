"""What a run prints and writes: a description, `results.json` and `training.png`."""

from __future__ import annotations

import json
import math
import platform
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import nn
from transformers import Trainer

from dmf.files import complete_file
from training.errors import public_settings
from training.job import Job, plain
from training.models.adapters import adapted_parts, config_of, own_parameters
from training.names import ADAPTER, CONFUSION, FIGURE, RESULTS, SCORES_BY_LABEL
from training.results.figures import curve, figure
from training.results.folders import IDENTITY, run_identity

_CLASSES = 20  # of so many at each end, names and counts are printed
_INDENT, _WIDTH = 16, 64
PACKAGES = ("deep-lora", "torch", "transformers", "peft", "accelerate", "datasets")


def describe(job: Job, model: nn.Module) -> str:
    """Describe in a few lines what is about to be trained."""
    run, splits = job.run, job.task.splits
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    batch = run.per_device_train_batch_size * run.gradient_accumulation_steps * run.world_size
    methods = dict.fromkeys(config_of(part).peft_type.value.lower() for part in adapted_parts(model).values())
    steps_per_epoch = math.ceil(len(splits["train"]) / batch)
    steps = run.max_steps if run.max_steps > 0 else math.ceil(steps_per_epoch * run.num_train_epochs)
    names = " and ".join(dict.fromkeys(job.model.names()))
    processes = f"{run.world_size} process{'es' if run.world_size > 1 else ''}"
    lines = {
        "task": job.task.name + (f", {len(job.task.label_names)} classes" if job.task.label_names else ""),
        "model": f"{names} ({total:,} parameters, {processes}, {run.device.type})",
        "adapter": f"{', '.join(methods) or 'none'}, {trained:,} trained parameters ({trained / total:.2%})",
        "trained whole": _whole_line(job, model),
        "data": ", ".join(f"{len(split):,} {name}" for name, split in splits.items()),
        **({"classes": _class_lines(job.task.counts)} if job.task.counts else {}),
        **({"numbers": _number_lines(job.task.ranges)} if job.task.ranges else {}),
        "steps": f"{steps:,} of {batch} samples, {steps / steps_per_epoch:.3g} epochs "
        f"({run.per_device_train_batch_size} on each process, {run.gradient_accumulation_steps} accumulated)",
        "learning rate": f"{run.learning_rate:g}",
        "writes": run.output_dir,
    }
    return "\n".join(_wrapped(name, str(text)) for name, text in lines.items())


def _class_lines(counts: dict[str, dict[str, int]]) -> str:
    """Return names and counts of the classes in the training data, and in the others in parentheses."""
    train, *others = counts
    shown = []
    for name, number in counts[train].items():
        rest = ", ".join(str(counts[other][name]) for other in others)
        shown.append(f"{name!r} {number:,}" + (f" ({rest})" if rest else ""))
    if len(shown) > 2 * _CLASSES:
        held = sorted(list(counts[train].values())[_CLASSES:-_CLASSES])
        between = f"... {len(shown) - 2 * _CLASSES} more of {held[0]:,} to {held[-1]:,} rows ..."
        shown = [*shown[:_CLASSES], between, *shown[-_CLASSES:]]
    of_splits = train + (f" ({', '.join(others)})" if others else "")
    return f"{of_splits}: {', '.join(shown)}"


def _number_lines(ranges: dict[str, tuple[float, float]]) -> str:
    return ", ".join(f"{name}: {low:.10g} to {high:.10g}" for name, (low, high) in ranges.items())


def _whole_line(job: Job, model: nn.Module) -> str:
    """Name what is trained whole, and who will not load that."""
    names = ", ".join(_trained_whole(model))
    served = job.task.peft_task == "CAUSAL_LM" and names
    return f"{names} (which vLLM, SGLang, TGI and llama.cpp do not load)" if served else names or "nothing"


def _trained_whole(model: nn.Module) -> list[str]:
    """Name the modules of which a copy is trained and saved with the adapter, and what is trained beside adapters."""
    names = [name for name, _ in model.named_modules() if name.endswith(".modules_to_save")]
    beside = [name.rpartition(".")[0] or name for name in own_parameters(model)]
    shown = [name.removeprefix("base_model.model.").removesuffix(".modules_to_save") for name in names]
    return list(dict.fromkeys([*shown, *beside]))


class Scores(Protocol):
    """Scores by class or by label."""

    unit: str  # class or label
    picture: str  # the name of its file

    def beside(self, metric: str) -> str: ...
    def as_json(self) -> dict[str, Any]: ...
    def table(self) -> str: ...
    def draw(self, path: Path, title: str) -> None: ...


class Measured(NamedTuple):
    """What a run has measured at its end, by the data: metrics, and scores by class; and where it resumed from."""

    metrics: dict[str, dict[str, float]]
    by_class: Mapping[str, Scores]
    resumed: Path | None


def write(
    folder: Path,
    job: Job,
    trainer: Trainer,
    measured: Measured,
    answers: list[dict[str, Any]] | None = None,
) -> None:
    """Write `results.json`, with sample answers if there are some, and the figures of a finished run."""
    metrics, by_class, resumed = measured
    results = base_results(job, trainer) | {
        "status": "complete",
        "metrics": metrics,
        "by_class": {split: scores.as_json() for split, scores in by_class.items()},
        "main_metric": job.task.main_metric,
        "resumed_from": None if resumed is None else resumed.name,
        "files": [ADAPTER],
        **({} if answers is None else {"answers": answers}),
    }
    write_json(folder / RESULTS, results)
    draw(folder / FIGURE, results["log"], job.task.panels or ((job.task.main_metric,),))
    for split, scores in list(by_class.items())[-1:]:  # test data, if there are some
        scores.draw(folder / scores.picture, f"{split} data")


def write_failure(folder: Path, job: Job, trainer: Trainer, reason: str) -> None:
    """Write `results.json` of a run that stopped."""
    if trainer.args.should_save:
        write_json(folder / RESULTS, base_results(job, trainer) | {"status": "stopped", "reason": reason})


def base_results(job: Job, trainer: Any) -> dict[str, Any]:
    """Collect what every run says: settings, versions, sizes and the log."""
    return {
        "command": job.command,
        IDENTITY: run_identity(trainer.facts),
        "task": job.task.name,
        "auto_class": job.task.auto_class,
        "pipeline": job.task.pipeline,
        "label_names": job.task.label_names,
        "num_labels": job.task.num_labels,
        "samples": {name: len(split) for name, split in job.task.splits.items()},
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": trainer.state.global_step,
        "processes": job.run.world_size,
        "log": trainer.state.log_history,
        "settings": plain(public_settings(job.settings(), job.token)),
        "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is complete or not there; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as partial:
        partial.write_text(json.dumps(plain(content), indent=2) + "\n", encoding="utf-8")


def installed_version(package: str) -> str:
    """Return the version of a package, or that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def summary(folder: Path, metrics: dict[str, dict[str, float]], by_class: Mapping[str, Scores]) -> str:
    """Summarize the metrics, the scores by class and what was written, for the terminal."""
    lines = []
    for split, values in metrics.items():
        held = [_named(name, value, by_class.get(split)) for name, value in values.items() if name != "runtime"]
        lines.append(_wrapped(split, ", ".join(held)))
    tables = [
        f"\n{split} data, {scores.unit} by {scores.unit}:\n{scores.table()}\n" for split, scores in by_class.items()
    ]
    written = [name for name in (ADAPTER, RESULTS, FIGURE, CONFUSION, SCORES_BY_LABEL) if (folder / name).exists()]
    return "\n".join([*lines, *tables, _wrapped("written to", f"{folder}: {', '.join(written)}")])


def _named(name: str, value: float, scores: Scores | None) -> str:
    return f"{name} {value:.4g}{scores.beside(name) if scores else ''}"


def _wrapped(name: str, text: str) -> str:
    """Return a line with its name, on several lines where it would be too long for a terminal."""
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{name:>14}  " + f"\n{'':>{_INDENT}}".join(lines)


def draw(path: Path, log: list[dict[str, float]], panels: Sequence[Sequence[str]]) -> None:
    """Draw training and validation loss, and those panels of metrics that have values, over the steps."""
    losses = {"training": _points(log, "loss"), "validation": _points(log, "eval_loss")}
    drawn = {"loss": {label: points for label, points in losses.items() if points}}
    for names in panels:
        held = {name: points for name in names if (points := _points(log, f"eval_{name}"))}
        if held:
            drawn[", ".join(names)] = held if len(names) > 1 else {"validation": held[names[0]]}
    last = max((entry["step"] for entry in log), default=1)
    with figure(path, columns=len(drawn)) as axes:
        for place, (title, curves) in zip(axes, drawn.items(), strict=True):
            for label, points in curves.items():
                curve(place, points, label=label)
            place.set(title=title, xlabel="optimizer step", xlim=(0, 1.03 * last))
            place.xaxis.get_major_locator().set_params(integer=True)
            place.grid(alpha=0.3)
            if curves:
                place.legend()
            values = [value for points in curves.values() for _, value in points]
            if title != "loss" and values and 0 <= min(values) and 0.5 <= max(values) <= 1:
                place.set_ylim(top=1.0)


def _points(log: list[dict[str, float]], key: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[key]) for entry in log if entry.get(key) is not None]
