"""The compressed factorization follows the wide one at a fraction of its cost: the paper's figure, in small."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor
from tqdm import tqdm

from dmf import CompressedDMF, DeepMatrixFactorization, ObservedEntries, masked_loss, observed_loss, parameter_groups

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Curve = dict[str, list[float]]


def descend(
    model: torch.nn.Module,
    groups: list[dict],
    loss: Callable[[], Tensor],
    error: Callable[[], float],
    steps: int,
    name: str,
) -> Curve:
    """Plain gradient descent; every 20 steps the loss, the error on unobserved entries and the seconds of the steps."""
    optimizer = torch.optim.SGD(groups)
    curve: Curve = {"step": [], "loss": [], "recovery_error": [], "seconds": []}
    seconds = 0.0
    for step in tqdm(range(steps + 1), desc=name, unit="step"):
        began = time.perf_counter()
        optimizer.zero_grad()
        value = loss()
        value.backward()
        if step % 20 == 0:
            pause = time.perf_counter()
            for key, number in zip(curve, (step, value.item(), error(), seconds), strict=True):
                curve[key].append(number)
            began += time.perf_counter() - pause
        optimizer.step()
        seconds += time.perf_counter() - began
    return curve


def compare_trajectories(output: Path, seed: int, size: int, steps: int) -> dict[str, Any]:
    """Complete a random matrix of rank 5 from 30 % of its entries, wide and compressed from the same start.

    Plain gradient descent on the sum of squares, which the rate is for; gamma is the paper's 0.01.

    Source: Yaras et al., ICML 2024, its run of deep matrix completion, at a smaller size.
    """
    rank, observed, rate = 5, 0.3, 4.0 / size
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"dtype": torch.float64, "generator": generator}
    target = torch.randn(size, rank, **options) @ torch.randn(rank, size, **options) / size**0.5
    mask = torch.rand(size, size, **options) < observed
    wide = DeepMatrixFactorization(size, size, init_scale=1e-2, **options)
    entries = ObservedEntries.from_dense(target, mask)
    numel = target.numel()
    compressed = CompressedDMF.from_gradient(wide, mask * (wide().detach() - target), rank=2 * rank)

    def error(model: torch.nn.Module) -> Callable[[], float]:
        def on_unobserved() -> float:
            with torch.no_grad():
                return masked_loss(model(), target, ~mask).item()

        return on_unobserved

    runs = {
        "wide": (wide, lambda: numel * masked_loss(wide(), target, mask, average="all")),
        "compressed": (compressed, lambda: numel * observed_loss(*compressed.two_factors(), entries, average="all")),
    }
    curves = {
        name: descend(model, parameter_groups(model, rate, gamma=0.01), loss, error(model), steps, name)
        for name, (model, loss) in runs.items()
    }
    draw(curves, output / "trajectory.png", f"{size} x {size}, rank {rank}, {observed:.0%} observed, depth 3")
    ratio = curves["wide"]["seconds"][-1] / curves["compressed"]["seconds"][-1]
    print(
        f"  after {steps} steps: recovery error wide {curves['wide']['recovery_error'][-1]:.1e}, compressed "
        f"{curves['compressed']['recovery_error'][-1]:.1e}; a compressed step is {ratio:.1f} times as fast"
    )
    return {"settings": {"size": size, "rank": rank, "observed": observed, "steps": steps}, "curves": curves}


def draw(curves: dict[str, Curve], path: Path, title: str) -> None:
    """Both errors over steps, and over seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, over in zip(axes, ("step", "seconds"), strict=True):
        for (name, curve), color in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
            axis.semilogy(curve[over], curve["recovery_error"], color=color, label=f"{name}, unobserved entries")
            axis.semilogy(curve[over], curve["loss"], color=color, linestyle=":", label=f"{name}, training loss")
        axis.set_xlabel(over)
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
