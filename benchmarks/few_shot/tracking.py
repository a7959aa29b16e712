"""Does the compressed form follow the uncompressed (wide) one? Training losses, and where the wide update grows.

For every module and measured step: the k = r/2 leading left and right singular vectors of the wide update, and the
share of their length (mean squared cosine) that lies in the compressed form's U and V *as they were at the start*,
which the first gradient chose. A random subspace of rank r would hold r/d of it, d the layer's width.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from deep_lora import DeepLoraLayer
from evidence_base import Adaptable, Task
from evidence_campaign import quiet, task_of
from evidence_methods import Method
from evidence_run import four_digits, start_from, steps

ADAPTER = "default"


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Mean losses of every method and mean overlaps, over the seeds."""
    quiet()
    task, methods = task_of(settings), settings["methods"]
    losses: dict[str, list[list[float]]] = {name: [] for name in methods}
    overlaps: list[list[dict[str, float]]] = []
    for seed in settings["seeds"]:
        bases = bases_of(prepared(task, _method(methods[settings["compressed"]]), seed)[0])
        for name, asked in methods.items():
            watched = bases if name == settings["wide"] else None
            curve, shares = follow(task, _method(asked), asked["rate"], seed, settings["measured_steps"], watched)
            losses[name].append(curve)
            overlaps += [shares] if shares else []
    return {
        "losses": {
            name: [four_digits(fmean(values)) for values in zip(*curves, strict=True)]
            for name, curves in losses.items()
        },
        "overlaps": [
            {key: four_digits(fmean(point[key] for point in points)) for key in points[0]}
            for points in zip(*overlaps, strict=True)
        ],
    }  # fmt: skip


def _method(asked: dict[str, Any]) -> Method:
    return Method("deep_lora", asked["config"], asked["batches"], sides=asked["sides"])


def prepared(task: Task, method: Method, seed: int) -> tuple[Any, list[Any]]:
    """The adapted model before its first step, and the batches to come."""
    batches = task.batches(task.split(seed)["train"], seed)
    model = task.model(seed)
    start_from(task, method, model, batches, seed)
    return model, batches


def layers_of(model: Adaptable) -> dict[str, DeepLoraLayer]:
    return {name: module for name, module in model.encoder.named_modules() if isinstance(module, DeepLoraLayer)}


def bases_of(model: Adaptable) -> dict[str, tuple[Tensor, Tensor]]:
    """Orthonormal U (out, r) and V (in, r) of every layer."""
    return {
        name: (layer.deep_lora_U[ADAPTER].detach().clone(), layer.deep_lora_V[ADAPTER].detach().clone())
        for name, layer in layers_of(model).items()
    }


def follow(
    task: Task, method: Method, rate: float, seed: int, measured: list[int], bases: dict[str, Any] | None
) -> tuple[list[float], list[dict[str, float]]]:
    """Trains; the loss of every step, and the overlaps with `bases` after the measured steps."""
    model, batches = prepared(task, method, seed)
    losses, shares = [], []
    for step, loss in steps(task, method, model, batches, rate, seed):
        losses.append(loss)
        if bases is not None and step in measured:
            shares.append({"step": float(step), **overlap(layers_of(model), bases)})
    return losses, shares


@torch.no_grad()
def overlap(layers: dict[str, DeepLoraLayer], bases: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean squared cosines between the leading singular vectors of every update and the bases, over the layers."""
    found: dict[str, list[float]] = {"left": [], "right": [], "chance": []}
    for name, layer in layers.items():
        U, V = bases[name]
        k = U.shape[1] // 2
        left, _, right = torch.svd_lowrank(layer.get_delta_weight(ADAPTER), k + 8, 4)
        found["left"].append(((U.mT @ left[:, :k]).square().sum() / k).item())
        found["right"].append(((V.mT @ right[:, :k]).square().sum() / k).item())
        found["chance"].append(fmean(U.shape[1] / basis.shape[0] for basis in (U, V)))
    return {key: fmean(values) for key, values in found.items()}
