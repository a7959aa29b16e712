"""What setting the subspaces from a gradient costs, against forward+backward, LoRA-GA and the wide construction."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.tuners.lora.loraga import preprocess_loraga
from torch import nn

from deep_lora import DeepLoraConfig, DeepLoraLayer, initialize_subspaces_
from deep_lora.gradients import GradientOperator, GradientSketch
from deep_lora.initialize import ITERATIONS, OVERSAMPLING, kept_width
from dmf import OrthogonalMap, compressed_bases
from measuring import compared, interleaved_seconds, peak_allocated_bytes, spread
from workloads import Workload


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    workload = Workload(**settings["workload"])
    config = DeepLoraConfig(r=settings["rank"], target_modules=workload.targets)
    model = get_peft_model(workload.model(settings["seed"]), config)
    loss = workload.loss(model, settings["seed"])

    def plain() -> None:
        loss().backward()
        model.zero_grad()

    def initialize() -> None:
        initialize_subspaces_(model, lambda: loss().backward(), seed=settings["seed"])

    functions = {"forward_and_backward": plain, "initialize_subspaces": initialize}
    seconds = interleaved_seconds(functions, settings["repeats"], settings["warmup"], settings["seed"])
    layers = [layer for layer in model.modules() if isinstance(layer, DeepLoraLayer)]
    gradients = [layer.out_features * layer.in_features * 4 for layer in layers]
    peaks = {name: peak_allocated_bytes(function) for name, function in functions.items()}
    return {
        "whole_model": compared(seconds, "forward_and_backward"),
        "from_the_bare_model": against_lora_ga(workload, settings),
        "one_layer": against_the_wide_construction(workload, settings),
        "memory": {
            "peak_bytes": peaks,
            "extra_bytes": peaks["initialize_subspaces"] - peaks["forward_and_backward"],
            "adapted_modules": len(layers),
            "largest_gradient_bytes": max(gradients),
            "smallest_gradient_bytes": min(gradients),
        },
    }


def against_lora_ga(workload: Workload, settings: dict[str, Any]) -> dict[str, Any]:
    """Adapter and initialisation together, starting from the frozen model, as LoRA-GA works before injection."""
    base = workload.model(settings["seed"])
    repeats = settings["construction_repeats"]

    def deep_lora(model: nn.Module) -> None:
        config = DeepLoraConfig(r=settings["rank"], target_modules=workload.targets)
        adapted = get_peft_model(model, config)
        loss = workload.loss(adapted, settings["seed"])
        initialize_subspaces_(adapted, lambda: loss().backward(), seed=settings["seed"])

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
    """One square layer: everything we add to its backward pass, against the three full SVDs of the wide construction.

    The SVDs alone are timed, in float32: of the gradient, of the joined spans whose null space is their intersection,
    and of the intersection (science: Yaras et al., ICML 2024, released code).
    """
    width, rank = workload.config["hidden_size"], settings["rank"]
    generator = torch.Generator().manual_seed(settings["seed"])
    x, delta = (torch.randn(workload.batch * workload.tokens, width, generator=generator) for _ in range(2))
    gradient = delta.mT @ x

    def three_svds() -> None:
        u, _, vh = torch.linalg.svd(gradient)
        spans = torch.cat([u[:, rank // 2 :], -vh[rank // 2 :].mT], dim=1)
        combinations = torch.linalg.svd(spans).Vh[width:].mT
        torch.linalg.svd(u[:, rank // 2 :] @ combinations[: width - rank // 2])

    def ours() -> None:
        sketch = GradientSketch(
            rows=width, columns=width, width=kept_width(rank), block=rank + OVERSAMPLING,
            iterations=ITERATIONS,
            seed=settings["seed"], dtype=torch.float32, device=x.device,
        )  # fmt: skip
        sketch.update(GradientOperator.from_rows(x, delta))
        svd = sketch.leading(rank // 2)
        start = OrthogonalMap(width, width, settings["seed"])
        compressed_bases(svd.left, svd.right, start, start.transpose)

    functions = {"three_svds": three_svds, "deep_lora": ours}
    seconds = interleaved_seconds(functions, settings["construction_repeats"], warmup=1, seed=settings["seed"])
    result = compared(seconds, "deep_lora")
    ratios = [a / b for a, b in zip(seconds["three_svds"], seconds["deep_lora"], strict=True)]
    return {**result, "times_faster_than_three_svds": spread(ratios)}
