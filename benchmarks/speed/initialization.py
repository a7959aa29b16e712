"""What initializing subspaces from a gradient costs, against forward+backward, LoRA-GA and the wide construction."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.tuners.lora.loraga import preprocess_loraga
from torch import nn

from benchmarks.speed.measuring import compared, interleaved_seconds, peak_allocated_bytes, spread
from benchmarks.speed.workloads import Workload
from deep_lora import DeepLoraConfig, adapted_layers, initialize_subspaces_
from deep_lora.layers.gradient import GradientOperator
from deep_lora.subspaces.sketch import ITERATIONS, OVERSAMPLING, GradientSketch, kept_width
from dmf.subspaces import OrthogonalMap, compressed_subspaces


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    workload = Workload(**settings["workload"])
    config = DeepLoraConfig(r=settings["rank"], target_modules=workload.targets)
    model = get_peft_model(workload.model(settings["seed"]), config)
    loss = workload.loss(model, settings["seed"])

    def plain() -> None:
        loss().backward()
        model.zero_grad()

    def initialize() -> None:
        initialize_subspaces_(model, lambda: loss().backward(), seed=settings["seed"], exact_bytes=0)

    functions = {"forward_and_backward": plain, "initialize_subspaces": initialize}
    seconds = interleaved_seconds(functions, settings["repeats"], settings["warmup"], settings["seed"])
    layers = list(adapted_layers(model).values())
    gradients = [layer.out_features * layer.in_features * 4 for layer in layers]
    peaks = {name: peak_allocated_bytes(function) for name, function in functions.items()}
    return {
        "whole_model": compared(seconds, "forward_and_backward"),
        "from_the_bare_model": against_lora_ga(workload, settings),
        "one_encoder_layer": against_the_wide_construction(workload, settings),
        "memory": {
            "peak_bytes": peaks,
            "extra_bytes": peaks["initialize_subspaces"] - peaks["forward_and_backward"],
            "adapted_modules": len(layers),
            "largest_gradient_bytes": max(gradients),
            "smallest_gradient_bytes": min(gradients),
        },
    }


def against_lora_ga(workload: Workload, settings: dict[str, Any]) -> dict[str, Any]:
    """Time adapter and initialization together, from the frozen model, as LoRA-GA works before injection."""
    base = workload.model(settings["seed"])
    repeats = settings["construction_repeats"]

    def deep_lora(model: nn.Module) -> None:
        config = DeepLoraConfig(r=settings["rank"], target_modules=workload.targets)
        adapted = get_peft_model(model, config)
        loss = workload.loss(adapted, settings["seed"])
        initialize_subspaces_(adapted, lambda: loss().backward(), seed=settings["seed"], exact_bytes=0)

    def lora_ga(model: nn.Module) -> None:
        config = LoraConfig(
            r=settings["rank"], lora_alpha=settings["rank"], target_modules=workload.targets,
            init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig(),
        )  # fmt: skip
        loss = workload.loss(model, settings["seed"])
        preprocess_loraga(model, config, lambda: loss().backward())
        get_peft_model(model, config)

    def on_fresh_copies(function: Callable[[nn.Module], None]) -> Callable[[], None]:
        copies = [copy.deepcopy(base) for _ in range(repeats + 1)]
        return lambda: function(copies.pop())

    functions = {"deep_lora": on_fresh_copies(deep_lora), "lora_ga": on_fresh_copies(lora_ga)}
    seconds = interleaved_seconds(functions, repeats, warmup=1, seed=settings["seed"])
    result = compared(seconds, "lora_ga")
    for name, function in (("deep_lora", deep_lora), ("lora_ga", lora_ga)):
        model = copy.deepcopy(base)
        result[name]["peak_bytes"] = peak_allocated_bytes(lambda f=function, m=model: f(m))
    return result


def against_the_wide_construction(workload: Workload, settings: dict[str, Any]) -> dict[str, Any]:
    """Time the adapted layers of one encoder layer: what we add to their backward passes, against three SVDs each.

    The wide construction works on the square factor of size max(in, out). Its SVDs alone are timed, in float32: of the
    gradient of that factor, of the joined spans whose null space is their intersection, and of the intersection (the
    released code of Yaras et al., ICML 2024). They depend on the size only, so equal sizes are timed once.
    """
    width, inner = workload.config["hidden_size"], workload.config["intermediate_size"]
    tokens = workload.batch * workload.tokens
    result: dict[str, Any] = {}
    totals = {"three_svds": 0.0, "deep_lora": 0.0}
    for rows, columns, count, repeats in ((width, width, 4, settings["construction_repeats"]), (inner, width, 2, 1)):
        functions = {
            "three_svds": _three_svds(max(rows, columns), settings["rank"], settings["seed"]),
            "deep_lora": _one_sketch(rows, columns, tokens, settings["rank"], settings["seed"]),
        }
        seconds = interleaved_seconds(functions, repeats, warmup=1 if repeats > 1 else 0, seed=settings["seed"])
        medians = {name: spread(values)["median"] for name, values in seconds.items()}
        result[f"{rows} x {columns}"] = {**medians, "times_faster": medians["three_svds"] / medians["deep_lora"]}
        totals = {name: totals[name] + count * median for name, median in medians.items()}
    result["encoder_layer"] = {**totals, "times_faster": totals["three_svds"] / totals["deep_lora"]}
    return result


def _three_svds(size: int, rank: int, seed: int) -> Callable[[], None]:
    gradient = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))

    def run() -> None:
        u, _, vh = torch.linalg.svd(gradient)
        spans = torch.cat([u[:, rank // 2 :], -vh[rank // 2 :].mT], dim=1)
        combinations = torch.linalg.svd(spans).Vh[size:].mT
        torch.linalg.svd(u[:, rank // 2 :] @ combinations[: size - rank // 2])

    return run


def _one_sketch(rows: int, columns: int, tokens: int, rank: int, seed: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(seed)
    x, delta = torch.randn(tokens, columns, generator=generator), torch.randn(tokens, rows, generator=generator)

    def run() -> None:
        sketch = GradientSketch(
            rows=rows, columns=columns, width=kept_width(rank), block=rank + OVERSAMPLING, iterations=ITERATIONS,
            seed=seed, dtype=torch.float32, device=x.device,
        )  # fmt: skip
        sketch.update(GradientOperator.from_rows(x, delta))
        svd = sketch.leading(rank // 2)
        start = OrthogonalMap(rows, columns, seed)
        compressed_subspaces(svd.left, svd.right, start, start.transpose)

    return run
