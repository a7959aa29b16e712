"""Recovery of low-rank matrices: steps against the wide network, and a table against other methods."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cmfrec import CMF
from torch import Tensor
from tqdm import tqdm

from dmf import CompressedDMF, DeepMatrixFactorization, ObservedEntries, masked_loss, observed_loss, parameter_groups


def gaussian_target(size: int, rank: int, seed: int) -> Tensor:
    """Make the best approximation of rank `rank` of a Gaussian matrix, as in the paper's experiments."""
    u, s, vh = torch.linalg.svd(torch.randn(size, size, dtype=torch.float64, generator=_generator(seed)))
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- steps against the wide network ----------------------------------------------------------------------------------


def measure_steps_to_recover(settings: dict[str, Any]) -> dict[str, Any]:
    """Count gradient steps of the wide and the compressed factorization until the training loss is below the stop."""
    runs = []
    for noise, seed in itertools.product(settings["noise"], settings["seeds"]):
        # The wide network has no rank to over-specify: it runs once for all factors.
        for method, rank_factor in [("wide", None), *(("compressed", factor) for factor in settings["rank_factors"])]:
            run = {"method": method, "rank_factor": rank_factor, "noise": noise, "seed": seed}
            runs.append({**run, **_descend(rank_factor, noise, seed, settings)})
    return {"runs": runs}


def _descend(rank_factor: int | None, noise: float, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the wide network (no rank factor) or its compression once."""
    size, depth, eps, rate = (settings[name] for name in ("size", "depth", "init_scale", "rate"))
    target = gaussian_target(size, settings["true_rank"], seed)
    seen = target + noise * target.std() * torch.randn(size, size, dtype=target.dtype, generator=_generator(seed + 1))
    mask = torch.rand(size, size, generator=_generator(seed + 2)) < settings["observed"]
    wide = DeepMatrixFactorization(
        size, size, depth=depth, init_scale=eps, generator=_generator(seed + 3), dtype=target.dtype
    )
    model: Any = wide
    if rank_factor is not None:
        gradient = torch.where(mask, wide().detach() - seen, 0.0) / mask.numel()
        model = CompressedDMF.from_gradient(wide, gradient, 2 * settings["true_rank"] * rank_factor)
    groups: Any = model.parameters() if rank_factor is None else parameter_groups(model, rate, settings["gamma"])
    optimizer = torch.optim.SGD(groups, lr=rate)
    # With noise the training error never vanishes: stop at the same multiple of the noise for both.
    floor = settings["stop"] + 0.5 * settings["observed"] * (noise * target.std().item()) ** 2
    start, steps, loss = time.process_time(), 0, float("inf")
    while loss > floor and steps < settings["max_steps"]:
        optimizer.zero_grad()
        value = masked_loss(model(), seen, mask, average="all")
        value.backward()
        optimizer.step()
        steps, loss = steps + 1, value.item()
    error = masked_loss(model().detach(), target, ~mask, average="all").item()
    return {
        "steps": steps,
        "reached": loss <= floor,
        "recovery_error": error,
        "cpu_seconds": time.process_time() - start,
    }


# ---- a table against other methods -----------------------------------------------------------------------------------

Fit = Callable[[ObservedEntries, int, float], np.ndarray]


def measure_table(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure errors on unobserved entries; every method picks one of equally many settings on validation entries."""
    cells = list(itertools.product(settings["observed"], settings["rank_factors"], settings["noise"]))
    runs = []
    for (observed, factor, noise), seed in tqdm(list(itertools.product(cells, settings["seeds"]))):
        target = gaussian_target(settings["size"], settings["true_rank"], seed)
        noisy = target + noise * target.std() * torch.randn(
            target.shape, dtype=target.dtype, generator=_generator(seed)
        )
        split = torch.rand(target.shape, generator=_generator(seed + 2))
        training, validation = split < 0.9 * observed, (split >= 0.9 * observed) & (split < observed)
        entries = ObservedEntries.from_dense(noisy, training)
        for method, candidates in settings["candidates"].items():
            start = time.process_time()
            tried = [torch.from_numpy(METHODS[method](entries, settings["true_rank"] * factor, c)) for c in candidates]
            # A fit that broke down (NaN) counts as the worst one.
            errors = [
                (completed - noisy)[validation].square().mean().nan_to_num(nan=float("inf")) for completed in tried
            ]
            index = int(torch.stack(errors).argmin())
            chosen, best = candidates[index], tried[index]
            unseen = split >= observed
            error = ((best - target)[unseen].norm() / target[unseen].norm()).item()
            runs.append(
                {
                    "observed": observed, "rank_factor": factor, "noise": noise, "seed": seed, "method": method,
                    "chosen": chosen, "relative_error": error, "cpu_seconds": time.process_time() - start,
                }
            )  # fmt: skip
    return {"runs": runs, "table": _summary(runs)}


def _summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = ("observed", "rank_factor", "noise", "method")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return [
        {
            **dict(zip(keys, group, strict=True)),
            "median_relative_error": statistics.median(run["relative_error"] for run in members),
            "worst_relative_error": max(run["relative_error"] for run in members),
            "median_cpu_seconds": statistics.median(run["cpu_seconds"] for run in members),
        }
        for group, members in groups.items()
    ]


def compressed(entries: ObservedEntries, rank: int, rate: float) -> np.ndarray:
    """Fit the compressed deep factorization; rank r means cores of width 2r (r directions from each side)."""
    scale = entries.values.std().item()
    scaled = ObservedEntries(entries.rows, entries.cols, entries.values / scale, entries.shape)
    model = CompressedDMF.from_entries(scaled, 2 * rank, init_scale=1e-3**0.5)
    return scale * _adam(model, parameter_groups(model, rate, gamma=1.0), scaled, rate)


def depth_two(entries: ObservedEntries, rank: int, rate: float) -> np.ndarray:
    """Fit `left right^T` of width r from small random values."""
    scale = entries.values.std().item()
    scaled = ObservedEntries(entries.rows, entries.cols, entries.values / scale, entries.shape)
    model = DeepMatrixFactorization(*entries.shape, width=rank, depth=2, init_scale=1e-3, dtype=entries.values.dtype)
    return scale * _adam(model, list(model.parameters()), scaled, rate)


def _adam(model: Any, groups: Any, entries: ObservedEntries, rate: float, steps: int = 800) -> np.ndarray:
    optimizer = torch.optim.Adam(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        observed_loss(*model.two_factors(), entries).backward()
        optimizer.step()
        schedule.step()
    return model().detach().numpy()


def als(entries: ObservedEntries, rank: int, penalty: float) -> np.ndarray:
    """Fit cmfrec's alternating least squares, without biases."""
    model = CMF(
        k=rank, lambda_=penalty, method="als", user_bias=False, item_bias=False, center=False, niter=100, use_cg=False,
        verbose=False, nthreads=torch.get_num_threads(),
    )  # fmt: skip
    matrix = np.full(entries.shape, np.nan)
    matrix[entries.rows.numpy(), entries.cols.numpy()] = entries.values.numpy()
    model.fit(matrix)
    return model.A_ @ model.B_.T


def soft_impute(entries: ObservedEntries, rank: int, share: float) -> np.ndarray:
    """Shrink singular values by `share` of the largest, refill, repeat (Mazumder, Hastie and Tibshirani, JMLR 2010)."""
    filled = torch.zeros(entries.shape, dtype=entries.values.dtype)
    filled[entries.rows, entries.cols] = entries.values
    threshold = share * torch.linalg.matrix_norm(filled, 2)
    completed = torch.zeros_like(filled)
    for _ in range(200):
        completed[entries.rows, entries.cols] = entries.values
        u, s, vh = torch.linalg.svd(completed, full_matrices=False)
        completed = (u * (s - threshold).clamp(min=0)) @ vh
    return completed.numpy()


METHODS: dict[str, Fit] = {"compressed": compressed, "depth_two": depth_two, "als": als, "soft_impute": soft_impute}
