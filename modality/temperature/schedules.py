"""Temperature schedules: frozen callables from the progress of training, in [0, 1], to tau."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class ConstantSchedule:
    """`tau(p) = tau`: a frozen temperature (FLT).

    Source: Yaras et al., CPAL 2025, a fixed temperature (FLT); their table 2 uses 4e-2.

    >>> ConstantSchedule(0.04)(0.3)
    0.04
    """

    tau: float = 0.04

    def __post_init__(self) -> None:
        _check_positive("tau", self.tau)

    def __call__(self, progress: float) -> float:
        return self.tau


@dataclass(frozen=True)
class LinearSchedule:
    """`tau(p) = start + (end - start) p`: temperature scheduling (TS).

    With a rising temperature the loss keeps pulling pairs together after they are matched, which closes the gap. With
    `end` far above 0.07 the features no longer spread out, and retrieval collapses.

    Source: Yaras et al., CPAL 2025, temperature scheduling (TS); their S0 to S3 start at 1e-2 and end at 2e-2,
    3e-2, 4e-2 and 5e-2.

    >>> LinearSchedule(start=0.01, end=0.05)(0.5)
    0.03
    """

    start: float = 0.01
    end: float = 0.05

    def __post_init__(self) -> None:
        _check_positive("start", self.start)
        _check_positive("end", self.end)

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class CosineAlternation:
    """`tau(p) = low + (high - low) (1 - cos(2 pi periods p)) / 2`: temperature alternation (TA).

    It starts at `low`, and ends there after a whole number of periods.

    Args:
        low, high: the two temperatures.
        periods: full cosines over training; the source does not give their number.

    Source: Yaras et al., CPAL 2025, temperature alternation (TA); their A0 and A1 go from 1e-2 to 2e-2 and to 4e-2.

    >>> [round(CosineAlternation(0.01, 0.04, periods=2)(p), 4) for p in (0.0, 0.25, 0.5)]
    [0.01, 0.04, 0.01]
    """

    low: float = 0.01
    high: float = 0.04
    periods: float = 5.0

    def __post_init__(self) -> None:
        for name in ("low", "high", "periods"):
            _check_positive(name, getattr(self, name))

    def __call__(self, progress: float) -> float:
        return self.low + (self.high - self.low) * (1 - math.cos(2 * math.pi * self.periods * progress)) / 2


@dataclass(frozen=True)
class PiecewiseSchedule:
    """Straight lines between points `(progress, tau)`, constant before the first and after the last.

    Two points at the same progress make a jump.

    >>> schedule = PiecewiseSchedule(((0.0, 0.01), (0.5, 0.05)))
    >>> [round(schedule(p), 4) for p in (0.0, 0.25, 0.9)]
    [0.01, 0.03, 0.05]
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple((float(place), float(tau)) for place, tau in self.points))
        places = [place for place, _ in self.points]
        if not places or places != sorted(places) or not 0 <= places[0] <= places[-1] <= 1:
            raise ValueError(
                f"`points` are pairs (progress, tau) of rising progress in [0, 1], got progress {places}; for example "
                "((0.0, 0.01), (0.5, 0.01), (1.0, 0.05))"
            )
        for _, tau in self.points:
            _check_positive("tau", tau)

    def __call__(self, progress: float) -> float:
        for (left, low), (right, high) in reversed(list(zip(self.points[:-1], self.points[1:], strict=True))):
            if left <= progress <= right and left < right:
                return low + (high - low) * (progress - left) / (right - left)
        return self.points[0][1] if progress < self.points[0][0] else self.points[-1][1]


def temperature_at(schedule: Schedule, progress: float) -> float:
    """Return the schedule's temperature after checking it, since user-defined schedules may return anything.

    Raises:
        ValueError: if it is not a positive, finite number.

    >>> temperature_at(lambda progress: 0.01 + 0.04 * progress**2, 0.5)
    0.02
    """
    tau = schedule(progress)
    if not is_positive_number(tau):
        raise ValueError(f"the schedule returned a temperature of {tau!r} at progress {progress}; it must be positive")
    return float(tau)


def is_positive_number(value: object) -> bool:
    """Tell whether a value is a positive, finite number; True and tensors are not.

    >>> is_positive_number(0.07), is_positive_number(math.inf), is_positive_number(True), is_positive_number("1")
    (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _check_positive(name: str, value: float) -> None:
    if not is_positive_number(value):
        raise ValueError(f"`{name}` of a temperature schedule must be a positive, finite number, got {value!r}")
