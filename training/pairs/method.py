"""Temperature, schedule and swaps of a run, made from its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modality import (
    ConstantSchedule,
    CosineAlternation,
    LinearSchedule,
    ModalitySwapCollator,
    PiecewiseSchedule,
    Temperature,
)
from modality.temperature import Schedule
from training.errors import UsageError
from training.pairs.arguments import MethodArguments


def make_schedule(method: MethodArguments) -> Schedule | None:
    """Make the schedule of the temperature, or None.

    Raises:
        UsageError: a temperature is out of range, or points do not make a schedule.
    """
    try:
        if method.schedule == "constant":
            return ConstantSchedule(0.04 if method.temperature is None else method.temperature)
        if method.schedule == "linear":
            return LinearSchedule(method.schedule_start, method.schedule_end)
        if method.schedule == "cosine":
            return CosineAlternation(method.schedule_start, method.schedule_end, method.schedule_periods)
        if method.schedule == "piecewise":
            return PiecewiseSchedule(tuple(_point(word) for word in method.schedule_points or ()))
    except ValueError as error:
        raise UsageError(f"--schedule {method.schedule}: {error}") from error
    return None


def make_temperature(method: MethodArguments, own: float | None) -> Temperature:
    """Make the temperature at the start of the run.

    Args:
        method: see its help.
        own: of the pretrained model, if it has one.

    Raises:
        UsageError: a value is out of range.
    """
    schedule = make_schedule(method)
    usual = 0.1 if method.loss == "sigmoid" else 0.07
    try:
        if schedule is not None:
            return Temperature(schedule(0.0), mode="scheduled")
        start = method.temperature if method.temperature is not None else (usual if own is None else own)
        bound = max(100.0, 1 / start) if start else 100.0  # a pretrained model may lie on CLIP's bound, or above it
        mode: Any = method.temperature_mode or "learnable"
        return Temperature(start, mode=mode, scale=method.temperature_scale, maximum_inverse=bound)
    except ValueError as error:
        raise UsageError(f"--temperature: {error}") from error


def swapping(collator: Callable[..., Any], method: MethodArguments, seed: int) -> Callable[..., Any]:
    """Return the collator, with the rule for swaps in its batches if swaps were asked for.

    Raises:
        UsageError: the probability is out of range.
    """
    if method.swap == "none":
        return collator
    mode: Any = method.swap
    per: Any = method.swap_per
    try:
        return ModalitySwapCollator(collator, mode, method.swap_probability, per=per, seed=seed)
    except ValueError as error:
        raise UsageError(f"--swap_probability: {error}") from error


def _point(word: str) -> tuple[float, float]:
    progress, _, temperature = word.partition(":")
    try:
        return float(progress), float(temperature)
    except ValueError as error:
        raise UsageError(
            f"--schedule_points got {word!r}; a point is progress:temperature, such as 0.5:0.05"
        ) from error
