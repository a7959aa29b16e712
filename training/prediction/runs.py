"""A finished run, read from its folder: its results, its settings, and its model with the adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel

from collapse import normalize_classifier_
from training.errors import UsageError, loading_error
from training.models.loading import load_base, load_processor, prepare_base, quantization_config
from training.names import ADAPTER, ADAPTER_CONFIG, RESULTS
from training.results.card import read_results
from training.settings.common import ModelArguments


class Head(NamedTuple):
    """What `load_base` has to know of a task."""

    name: str
    auto_class: str
    model_settings: dict[str, Any]


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a run and its `results.json`."""

    folder: Path
    results: dict[str, Any]

    @property
    def task(self) -> str:
        """Return the name of the task; of a completed matrix, `complete`."""
        return str(self.results.get("task") or self.results["command"])

    @property
    def names(self) -> list[str]:
        """Return the names of the classes or tags."""
        return list(self.results.get("label_names") or ())

    def setting(self, name: str, given: Any = None) -> Any:
        """Return what was given, or else what the run was trained with."""
        return self.results["settings"].get(name) if given is None else given


def read_run(folder: Path) -> FinishedRun:
    """Read the results of a run.

    Raises:
        UsageError: there are none, or the run did not end.
    """
    try:
        results = read_results(folder)
        complete = results["status"] == "complete" and isinstance(results["settings"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder} is not the folder of a finished run: {RESULTS} cannot be read") from error
    if not complete:
        raise UsageError(f"the run in {folder} is not complete; rerun its command to resume it")
    return FinishedRun(folder, results)


def find_run(adapter: Path) -> FinishedRun | None:
    """Return the run that a folder holds, or that the adapter in it belongs to; None if it lies alone.

    Raises:
        UsageError: the run did not end.
    """
    folders = [adapter, *([adapter.parent] if adapter.absolute().name == ADAPTER else [])]
    found = next((folder for folder in folders if (folder / RESULTS).is_file()), None)
    return None if found is None else read_run(found)


def load_trained(
    run: FinishedRun, model: str | None = None, *, trust: bool = False, token: str | None = None
) -> tuple[PeftModel, Any]:
    """Load the base model with the adapter, ready to predict, and its tokenizer or image processor.

    Args:
        run: with its results.
        model: the base model, if it is elsewhere by now.
        trust: run Python code that the model's repository brings along.
        token: to read private models with.

    Raises:
        UsageError: there is no adapter, or the base model cannot be loaded or is another one.
        RunError: network or disk fail.
    """
    place = run.folder / ADAPTER
    config = place / ADAPTER_CONFIG
    if not config.is_file():
        raise UsageError(f"{run.folder} holds no {place.name}/{ADAPTER_CONFIG}; rerun its command to write the adapter")
    fields = json.loads(config.read_text(encoding="utf-8"))
    arguments = ModelArguments(
        model=model or fields.get("base_model_name_or_path"), trust_remote_code=trust,
        **{name: value for name in ("revision", "gguf_file", "dtype", "load_in_8bit", "load_in_4bit",
                                    "attn_implementation") if (value := run.setting(name)) is not None},
    )  # fmt: skip
    images = run.results["command"] == "classify"
    processor = load_processor(ModelArguments(model=str(place)), images=images)
    base = load_base(arguments, Head(run.task, run.results["auto_class"], model_settings(run)), token)
    if run.setting("normalized_head"):
        normalize_classifier_(base.model, run.setting("head_scale"))
    quantized = quantization_config(arguments) is not None
    prepared = prepare_base(base, processor, quantized=quantized, checkpointing=False)
    try:
        trained = PeftModel.from_pretrained(prepared, str(place))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise loading_error(f"the adapter {place} (for {arguments.model})", error, token) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (trained if quantized else trained.to(device)).eval(), processor


def model_settings(run: FinishedRun) -> dict[str, Any]:
    """Return what the configuration of the base model is given: the names of the labels, or their number."""
    names = run.names
    if names:
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
        }
    return {"num_labels": run.results["num_labels"]} if run.results.get("num_labels") else {}
