"""The theory as an experiment: two clusters of free features, one for each modality, trained on the sphere."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modality.losses.contrastive import contrastive_loss
from modality.metrics.retrieval import margin
from modality.rows import unit_rows
from modality.temperature.module import Mode, Temperature
from modality.temperature.schedules import Schedule, temperature_at


class SyntheticPoint(NamedTuple):
    """One moment of the training: time, loss, tau, gap, margin and normalized features."""

    time: float
    loss: float
    tau: float
    gap: float
    margin: float
    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n d"]


def two_clusters(num_pairs: int, num_features: int, offset: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw random unit rows and push them apart along the last axis: x by `offset`, y by `-offset`, then normalize.

    >>> x, y = two_clusters(50, 3, offset=0.5, seed=0)
    >>> bool(x[:, 2].mean() > 0 > y[:, 2].mean())
    True
    """
    generator = torch.Generator().manual_seed(seed)
    rows = unit_rows(torch.randn(2, num_pairs, num_features, generator=generator, dtype=torch.float64))
    rows[0, :, -1] += offset
    rows[1, :, -1] -= offset
    x, y = unit_rows(rows)
    return x, y


def synthetic_training(
    *,
    num_pairs: int = 32,
    num_features: int = 3,
    offset: float = 0.5,
    mode: Mode = "learnable",
    schedule: Schedule | None = None,
    initial_temperature: float = 0.5,
    duration: float = 1000.0,
    steps: int = 1000,
    points: int = 40,
    seed: int = 0,
) -> list[SyntheticPoint]:
    """Run gradient flow of the contrastive loss over the features themselves and, with a learned mode, over nu.

    There are no towers, so only the loss and the temperature cause the gap. With a learned temperature it grows until
    all pairs are matched and then closes ever more slowly, since tau falls; a temperature that stays high closes it.

    Args:
        num_pairs, num_features: n and d.
        offset: of the two clusters at the start; see `two_clusters`.
        mode: of the `Temperature`; "scheduled" needs a schedule.
        schedule: progress of log(1 + time), in [0, 1] -> tau, in place of a learned temperature.
        initial_temperature: tau at the start, without a schedule.
        duration: time at the end.
        steps: of gradient descent, evenly spaced in log(1 + time), since the flow slows down as the loss falls.
        points: moments to return besides the start, evenly spaced as well.
        seed: of the start.

    Raises:
        ValueError: for counts below 1, or a learned mode together with a schedule.

    Source: Yaras et al., CPAL 2025, the synthetic run (from a gap of .62; the paper gives no other settings).

    >>> run = synthetic_training(num_pairs=8, duration=10.0, steps=20, points=4)
    >>> run[0].time, run[-1].loss < run[0].loss
    (0.0, True)
    """
    if min(num_pairs, num_features, steps, points) < 1 or not 0 < duration < math.inf:
        raise ValueError(
            "`num_pairs`, `num_features`, `steps` and `points` must be at least 1, `duration` positive; got "
            f"{num_pairs}, {num_features}, {steps}, {points} and {duration}"
        )
    if (schedule is not None) != (mode == "scheduled"):
        raise ValueError(f"pass a schedule if and only if mode='scheduled'; got mode={mode!r}")
    temperature = Temperature(initial_temperature, mode, maximum_inverse=None).double()
    x, y = (nn.Parameter(rows) for rows in two_clusters(num_pairs, num_features, offset, seed))
    trained: list[Tensor] = [x, y, *temperature.parameters()]
    wanted = {round(i * steps / points) for i in range(points + 1)}
    path, time = [], 0.0
    for step in range(steps + 1):
        if schedule is not None:
            temperature.set_tau(temperature_at(schedule, step / steps))
        loss = contrastive_loss(x, y, temperature())
        if step in wanted:
            path.append(_point(time, loss.item(), temperature.tau, x, y))
        time, before = math.expm1(math.log1p(duration) * (step + 1) / steps), time
        if step < steps:
            _descend(loss, trained, time - before)
    return path


def _descend(loss: Tensor, parameters: list[Tensor], duration: float) -> None:
    """Take one step of gradient descent, then normalize the first two parameters, which are the rows."""
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= duration * gradient
        for rows in parameters[:2]:
            rows.copy_(unit_rows(rows))


def _point(time: float, loss: float, tau: float, x: Tensor, y: Tensor) -> SyntheticPoint:
    rows_x, rows_y = unit_rows(x.detach()), unit_rows(y.detach())
    gap = torch.linalg.vector_norm(rows_x.mean(0) - rows_y.mean(0)).item()
    return SyntheticPoint(time, loss, tau, gap, margin(rows_x, rows_y), rows_x, rows_y)
