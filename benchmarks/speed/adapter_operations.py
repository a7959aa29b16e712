"""Merge, unmerge, save, load, export and inference, against PEFT's LoRA on the same model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

import deep_lora
from benchmarks.speed.measuring import compared, interleaved_seconds
from benchmarks.speed.workloads import Workload
from deep_lora import DeepLoraConfig

Functions = dict[str, Callable[[], Any]]


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Time every operation, interleaved for both methods.

    The export to LoRA is compared with saving a LoRA; `export_cost` compares it with PEFT's conversion.
    """
    workload = Workload(**settings["workload"])
    rank, seed = settings["rank"], settings["seed"]
    base = workload.model(seed)
    configs = {
        "deep_lora": DeepLoraConfig(r=rank, target_modules=workload.targets),
        "lora": LoraConfig(r=rank, lora_alpha=rank, target_modules=workload.targets),
    }
    models = {name: _as_if_trained(get_peft_model(copy.deepcopy(base), config)) for name, config in configs.items()}

    def timed(functions: Functions, repeats: int = settings["repeats"]) -> dict[str, Any]:
        return compared(interleaved_seconds(functions, repeats, settings["warmup"], seed), "lora")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {
            # merging and unmerging are timed as a pair, so that every call leaves the model as it found it
            "merge_and_unmerge": timed({name: _merge_and_unmerge(model) for name, model in models.items()}),
            "save": timed({name: _save(model, folder / name) for name, model in models.items()}),
            "load": timed({name: _load(base, folder / name) for name in models}),
            "inference": timed(
                {name: _inference(workload, model, seed) for name, model in models.items()},
                settings["inference_repeats"],
            ),
            "export_against_saving_a_lora": timed(
                {
                    "deep_lora": lambda: deep_lora.save_as_lora(folder / "plain", models["deep_lora"]),
                    "lora": _save(models["lora"], folder / "lora"),
                }
            ),
        }
    return {"operations": result}


@torch.no_grad()
def _as_if_trained(model: PeftModel) -> PeftModel:
    """Move every adapter parameter a little away from its start, so that no update is zero."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return model.eval()


def _merge_and_unmerge(model: PeftModel) -> Callable[[], None]:
    def run() -> None:
        model.merge_adapter()
        model.unmerge_adapter()

    return run


def _save(model: PeftModel, folder: Path) -> Callable[[], None]:
    return lambda: model.save_pretrained(str(folder))


def _load(base: nn.Module, folder: Path) -> Callable[[], None]:
    """Put the saved adapter on the base model, and take it off again."""

    def run() -> None:
        PeftModel.from_pretrained(base, str(folder)).unload()

    return run


def _inference(workload: Workload, model: PeftModel, seed: int) -> Callable[[], None]:
    loss = workload.loss(model, seed)

    def run() -> None:
        with torch.no_grad():
            loss()

    return run
