"""One step of matrix completion: wide against compressed, dense residual against observed entries, and scale."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.measuring import (
    compared,
    interleaved_seconds,
    measured_in_a_fresh_process,
    peak_resident_bytes,
    spread,
)
from dmf import (
    CompressedDMF,
    DeepMatrixFactorization,
    ObservedEntries,
    masked_loss,
    observed_loss,
    parameter_groups,
)


def measure_steps(settings: dict[str, Any]) -> dict[str, Any]:
    """Time forward, backward and update of every method on one random low-rank matrix, interleaved in one process."""
    target, mask = _low_rank(settings["size"], settings["true_rank"], settings["observed"], settings["seed"])
    target = target.to(getattr(torch, settings.get("dtype", "float32")))
    steps = {name: _step(name, target, mask, settings) for name in settings["methods"]}
    seconds = interleaved_seconds(steps, settings["repeats"], settings["warmup"], settings["seed"])
    return {"methods": compared(seconds, settings["peer"])}


def _low_rank(size: int, rank: int, observed: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(size, rank, generator=generator) for _ in range(2))
    return left @ right.mT / rank**0.5, torch.rand(size, size, generator=generator) < observed


def _step(name: str, target: Tensor, mask: Tensor, settings: dict[str, Any]) -> Callable[[], None]:
    """Make one gradient step of "wide", "compressed" (dense residual) or "observed" (compressed, observed entries)."""
    entries = ObservedEntries.from_dense(target, mask)
    depth, size = settings["depth"], settings["size"]
    if name == "wide":
        start = {"init_scale": settings["init_scale"], "dtype": target.dtype}
        model: Any = DeepMatrixFactorization(size, size, depth=depth, **start)
    else:
        model = CompressedDMF.from_entries(
            entries, 2 * settings["true_rank"], depth=depth, init_scale=settings["init_scale"]
        )
    groups: Any = model.parameters() if name == "wide" else parameter_groups(model, settings["rate"])
    optimizer = torch.optim.SGD(groups, lr=settings["rate"])

    def loss() -> Tensor:
        if name == "observed":
            return observed_loss(*model.two_factors(), entries, average="all")
        return masked_loss(model(), target, mask, average="all")

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def measure_scale(settings: dict[str, Any]) -> dict[str, Any]:
    """Time an epoch (one full-batch Adam step) over a growing number of entries, each in a process of its own."""
    runs = []
    for count in settings["entries"]:
        runs.append({"entries": count, **measured_in_a_fresh_process(__name__, {**settings, "count": count})})
    logs = np.log([[run["entries"], run["seconds_per_epoch"]["median"]] for run in runs])
    slope = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    return {"runs": runs, "exponent_of_time_in_entries": slope}


def random_entries(settings: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw rows, columns and values of `count` different entries of a rank-2 matrix."""
    size, count = settings["size"], settings["count"]
    generator = torch.Generator().manual_seed(settings["seed"])
    keys = torch.randint(0, size * size, (count + count // 100,), generator=generator).unique()
    keys = keys[torch.randperm(len(keys), generator=generator)[:count]]
    left, right = (torch.randn(size, 2, generator=generator) for _ in range(2))
    rows, cols = keys // size, keys % size
    return rows, cols, left[rows, 0] * right[cols, 0] + left[rows, 1] * right[cols, 1]


def one_scale(settings: dict[str, Any]) -> dict[str, Any]:
    """Time epochs on `count` random entries of a rank-2 matrix; the loss must fall."""
    torch.set_num_threads(settings["threads"])
    entries = ObservedEntries(*random_entries(settings), (settings["size"], settings["size"]))
    model = CompressedDMF.from_entries(
        entries, settings["rank"], depth=settings["depth"], init_scale=settings["init_scale"]
    )
    optimizer = torch.optim.Adam(parameter_groups(model, settings["rate"], gamma=1.0))
    losses = []

    def epoch() -> None:
        optimizer.zero_grad()
        loss = observed_loss(*model.two_factors(), entries)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    seconds = interleaved_seconds({"epoch": epoch}, settings["repeats"], settings["warmup"], 0)["epoch"]
    return {
        "seconds_per_epoch": spread(seconds),
        "peak_resident_bytes": peak_resident_bytes(),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


if __name__ == "__main__":
    print(json.dumps(one_scale(json.loads(sys.argv[1]))))
