"""One run of the few-shot study: a method with a learning rate and a seed, trained and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.few_shot.methods import Method, adapted, optimizer_of, train_by_rule
from benchmarks.few_shot.tasks.base import Adaptable, Parts, Task
from deep_lora import kept_ranks, to_lora
from dmf.linalg import factor_svd

LOSS_WINDOW = 10
RANK_SHARE, SMALLEST_NORM = 1e-2, 1e-3


def measure_run(task: Task, method: Method, rate: float, seed: int, tolerances: list[float]) -> dict[str, Any]:
    """Train once; return losses, scores over the steps, what an export at each tolerance keeps, and CPU seconds."""
    start = time.process_time()
    task = task.with_batch_size(method.batch_size) if method.batch_size else task
    parts = task.split(seed)
    batches = task.batches(parts.pop("train"), seed)
    model = task.model(seed)
    start_from(task, method, model, batches, seed)
    losses, curve = train(task, method, model, batches, parts, rate, seed)
    windows = [losses[i : i + LOSS_WINDOW] for i in range(0, len(losses), LOSS_WINDOW)]
    return {
        "validation": curve[-1]["validation"], "test": curve[-1]["test"], "curve": curve,
        "loss": [four_digits(fmean(window)) for window in windows],
        "exported": exported(task, method, model, parts, seed, tolerances),
        "ranks": effective_ranks(method, model),
        "written": task.texts_written(model, seed) if tolerances else {},
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "cpu_seconds": round(time.process_time() - start, 1),
    }  # fmt: skip


def start_from(task: Task, method: Method, model: Adaptable, batches: list[np.ndarray], seed: int) -> None:
    """Adapt the model; the gradient of the first of these batches may initialize the adapter."""
    first = np.concatenate(batches[: max(1, method.batches)])
    adapted(method, model, task, lambda: task.loss(model, first, seed).backward(), seed)


def train(
    task: Task, method: Method, model: Adaptable, batches: list[np.ndarray], parts: Parts, rate: float, seed: int
) -> tuple[list[float], list[dict[str, float]]]:
    """Train; return the loss of every step, and the scores at the measured steps."""
    losses: list[float] = []
    curve: list[dict[str, float]] = []
    for step, loss in steps(task, method, model, batches, rate, seed):
        losses.append(loss)
        if step % task.settings.evaluate_every == 0 or step == len(batches):
            curve.append({"step": step, **measured(task, model, parts)})
    return losses, curve


def steps(
    task: Task, method: Method, model: Adaptable, batches: list[np.ndarray], rate: float, seed: int
) -> Iterator[tuple[int, float]]:
    """Train; yield the number and the loss of every step, after it."""
    optimizer, schedule = optimization(task, method, model, rate, len(batches))
    for step, batch in enumerate(batches, start=1):
        if method.restart and step == method.restart + 1:
            model.encoder = model.encoder.merge_and_unload()
            start_from(task, method, model, batches[method.restart :], seed)
            optimizer, schedule = optimization(task, method, model, rate, len(batches), done=method.restart)
        model.train()
        torch.manual_seed(seed * 1_000_003 + step)  # the same dropout for every method
        loss = task.loss(model, batch, seed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield step, loss.item()


def optimization(
    task: Task, method: Method, model: Adaptable, rate: float, num_steps: int, done: int = 0
) -> tuple[Optimizer, LambdaLR]:
    """Make the optimizer and the schedule of a run with so many steps done, under the step rule if asked for."""
    optimizer = optimizer_of(method, model, rate, task)
    schedule = schedule_of(task, optimizer, done)
    train_by_rule(method, model, task, optimizer, schedule, num_steps - done)
    return optimizer, schedule


def schedule_of(task: Task, optimizer: Optimizer, done: int = 0) -> LambdaLR:
    """Make a constant rate, or linear (as in Trainer) or cosine decay to 0, for the head too."""
    steps = task.settings.steps
    shapes = {
        "constant": lambda share: 1.0,
        "linear": lambda share: max(0.0, 1 - share),
        "cosine": lambda share: (1 + math.cos(math.pi * min(1.0, share))) / 2,
    }
    shape = shapes[task.settings.schedule]
    return LambdaLR(optimizer, lambda step: shape((done + step) / steps))


def measured(task: Task, model: Adaptable, parts: Parts) -> dict[str, float]:
    model.eval()
    return {name: four_digits(score) for name, score in task.score(model, parts).items()}


def exported(
    task: Task, method: Method, model: Adaptable, parts: Parts, seed: int, tolerances: list[float]
) -> list[dict[str, float]]:
    """Export Deep LoRA at every tolerance; return the ranks that are kept, and the test score of the exported LoRA."""
    if not exports(method, model):
        return []
    rows = []
    for tolerance in tolerances:
        ranks = list(kept_ranks(model.encoder, tolerance=tolerance).values())
        config, state = to_lora(model.encoder, tolerance=tolerance)
        plain = task.model(seed)
        plain.head.load_state_dict(model.head.state_dict())
        plain.encoder = get_peft_model(plain.encoder, config)
        set_peft_model_state_dict(plain.encoder, state)
        score = measured(task, plain, {"test": parts["test"]})["test"]
        rows.append({"tolerance": tolerance, "median_rank": median(ranks), "max_rank": max(ranks), "test": score})
    return rows


def exports(method: Method, model: Adaptable) -> bool:
    """Tell whether the adapter is all of the update and can be exported to a LoRA of its rank."""
    compressed = method.config.get("variant", "compressed") == "compressed"
    whole = method.adapter == "deep_lora" and compressed and not method.restart
    return whole and all(bool(torch.isfinite(p).all()) for p in model.parameters())


@torch.no_grad()
def effective_ranks(method: Method, model: Adaptable) -> list[int]:
    """Count the singular values above a hundredth of the largest of every module's update; 0 if that is at most 1e-3.

    Empty for a method without a low-rank update, and one that changes the pretrained weight first.
    """
    if exports(method, model):
        config, state = to_lora(model.encoder)
    elif method.adapter == "lora" and "init_lora_weights" not in method.config:
        config, state = model.encoder.peft_config["default"], get_peft_model_state_dict(model.encoder)
    else:
        return []
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    pairs = [(state[name], state[name.replace("lora_A", "lora_B")]) for name in state if "lora_A." in name]
    ranks = []
    for A, B in pairs:
        values = factor_svd(scale * B.double().nan_to_num(), A.double().nan_to_num().mT).values
        ranks.append(int((values > RANK_SHARE * values[0]).sum()) if values[0] > SMALLEST_NORM else 0)
    return ranks


def four_digits(value: float) -> float:
    return float(f"{value:.4g}")
