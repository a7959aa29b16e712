"""Time and memory of one training step: forward, backward, AdamW."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.speed.measuring import (
    compared,
    interleaved_seconds,
    measured_in_a_fresh_process,
    peak_allocated_bytes,
    peak_resident_bytes,
)
from benchmarks.speed.peers import adapted, optimizer_of
from benchmarks.speed.workloads import Workload

PEER = "lora"


def step_function(workload: Workload, method: str, rank: int, seed: int) -> tuple[nn.Module, Callable[[], None]]:
    """Make a model with that method's adapter, and a function that makes one training step."""
    model = adapted(workload.model(seed), method, workload.targets, rank)
    loss = workload.loss(model, seed)
    optimizer = optimizer_of(model, method)

    def step() -> None:
        loss().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return model, step


def measure_time(settings: dict[str, Any]) -> dict[str, Any]:
    """Time interleaved steps of all methods in one process, and compare their overhead over the frozen model."""
    workload = Workload(**settings["workload"])
    steps = {
        method: step_function(workload, method, settings["rank"], settings["seed"])[1] for method in settings["methods"]
    }
    seconds = interleaved_seconds(steps, settings["repeats"], settings["warmup"], settings["seed"])
    methods = compared(seconds, settings.get("peer", PEER))
    ratios = {name: measured.get(f"ratio_to_{PEER}", {}).get("median") for name, measured in methods.items()}
    result: dict[str, Any] = {"methods": methods}
    if {"frozen", PEER} <= ratios.keys():
        result["overhead_over_frozen_relative_to_lora"] = {
            name: (ratio - ratios["frozen"]) / (1 - ratios["frozen"])
            for name, ratio in ratios.items()
            if name != "frozen"
        }
    return result


def measure_memory(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure the peak memory of training, in a fresh process for every method."""
    methods = {
        method: measured_in_a_fresh_process(__name__, {**settings, "method": method}) for method in settings["methods"]
    }
    for measured in methods.values():
        for name in ("step_bytes", "resident_bytes"):
            measured[f"ratio_of_{name}_to_{PEER}"] = measured[name] / methods[PEER][name]
    return {"methods": methods}


def memory_of_one_method(settings: dict[str, Any]) -> dict[str, int]:
    """Measure the resident peak of three steps, and the peak of tensors in one more, beyond model and optimizer."""
    torch.set_num_threads(settings["threads"])
    _, step = step_function(Workload(**settings["workload"]), settings["method"], settings["rank"], settings["seed"])
    for _ in range(3):
        step()
    resident = peak_resident_bytes()
    return {"step_bytes": peak_allocated_bytes(step), "resident_bytes": resident}


if __name__ == "__main__":
    print(json.dumps(memory_of_one_method(json.loads(sys.argv[1]))))
