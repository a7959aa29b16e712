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

from benchmarks.few_shot.campaign import quiet
from benchmarks.few_shot.methods import Method
from benchmarks.few_shot.one_run import four_digits, start_from, steps
from benchmarks.few_shot.tasks import task_of
from benchmarks.few_shot.tasks.base import Adaptable, Task
from deep_lora import DeepLoraLayer, adapted_layers

ADAPTER = "default"


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure mean losses of every method and mean overlaps, over the seeds."""
    quiet()
    task, methods = task_of(settings), settings["methods"]
    losses: dict[str, list[list[float]]] = {name: [] for name in methods}
    overlaps: list[list[dict[str, float]]] = []
    for seed in settings["seeds"]:
        subspaces = subspaces_of(prepared(task, _method(methods[settings["compressed"]]), seed)[0])
        for name, asked in methods.items():
            watched = subspaces if name == settings["wide"] else None
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
    return Method("deep_lora", asked["config"], asked["batches"], sides=asked["sides"], gamma=asked.get("gamma", 1.0))


def prepared(task: Task, method: Method, seed: int) -> tuple[Any, list[Any]]:
    """Make the adapted model before its first step, and draw its batches."""
    batches = task.batches(task.split(seed)["train"], seed)
    model = task.model(seed)
    start_from(task, method, model, batches, seed)
    return model, batches


def layers_of(model: Adaptable) -> dict[str, DeepLoraLayer]:
    return adapted_layers(model.encoder)


def subspaces_of(model: Adaptable) -> dict[str, tuple[Tensor, Tensor]]:
    """Copy the orthonormal U (out, r) and V (in, r) of every layer."""
    found = {}
    for name, layer in layers_of(model).items():
        scale = layer.outer_scale[ADAPTER]
        found[name] = scale * layer.deep_lora_U[ADAPTER].detach(), scale * layer.deep_lora_V[ADAPTER].detach()
    return found


def follow(
    task: Task, method: Method, rate: float, seed: int, measured: list[int], subspaces: dict[str, Any] | None
) -> tuple[list[float], list[dict[str, float]]]:
    """Train; return the loss of every step, and the overlaps with `subspaces` after the measured steps."""
    model, batches = prepared(task, method, seed)
    losses, shares = [], []
    for step, loss in steps(task, method, model, batches, rate, seed):
        losses.append(loss)
        if subspaces is not None and step in measured:
            shares.append({"step": float(step), **overlap(layers_of(model), subspaces)})
    return losses, shares


@torch.no_grad()
def overlap(layers: dict[str, DeepLoraLayer], subspaces: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Average squared cosines between the leading singular vectors of every update and the subspaces, over layers."""
    found: dict[str, list[float]] = {"left": [], "right": [], "chance": []}
    for name, layer in layers.items():
        U, V = subspaces[name]
        k = U.shape[1] // 2
        left, _, right = torch.svd_lowrank(layer.get_delta_weight(ADAPTER), k + 8, 4)
        found["left"].append(((U.mT @ left[:, :k]).square().sum() / k).item())
        found["right"].append(((V.mT @ right[:, :k]).square().sum() / k).item())
        found["chance"].append(fmean(U.shape[1] / basis.shape[0] for basis in (U, V)))
    return {key: fmean(values) for key, values in found.items()}
