"""The gradient flow of temperature and gap in the scalar model, and its closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from modality.temperature.schedules import Schedule, temperature_at

FlowMode = Literal["exp", "softplus", "linear"]
State = tuple[float, float]  # beta, log gamma


class FlowPoint(NamedTuple):
    """The state of the flow at one time."""

    time: float
    inverse_temperature: float
    gap: float


def temperature_flow(
    times: Sequence[float],
    mode: FlowMode = "exp",
    *,
    scale: float = 1.0,
    inverse_temperature: float = 5.0,
    gap: float = 0.5,
    steps_per_decade: int = 400,
) -> list[FlowPoint]:
    """Integrate the gradient flow of nu and gamma on `exp(-beta(nu) (1 - gamma^2))`, for a learned temperature.

        dbeta/dt = beta'(nu)^2 (1 - gamma^2) g,   dgamma/dt = -2 beta gamma g,   g = exp(-beta (1 - gamma^2))

    gamma is half the distance between two otherwise parallel modalities, and beta = 1 / tau. As beta grows, g falls,
    and so does the rate at which the gap closes: gamma(t) is of order 1 / log^2 t for "exp", and of order t^(-log t)
    for "softplus".

    Args:
        times: increasing, at least 0.
        mode: "exp" is beta = exp(nu / scale) (CLIP at scale 1); "softplus" is beta = log(1 + e^nu); "linear" is
            beta = nu, its limit for large beta, which the source calls softplus-like.
        scale: s of "exp".
        inverse_temperature, gap: beta and gamma at time 0.
        steps_per_decade: of the fourth-order Runge-Kutta method, in log(1 + t).

    Raises:
        ValueError: for another mode, or values out of range.

    Source: Yaras et al., CPAL 2025, the parallel-modality model, and appendix C.

    >>> [round(point.gap, 3) for point in temperature_flow([1e2, 1e4, 1e6])]
    [0.137, 0.053, 0.028]
    """
    slopes: dict[str, Callable[[float], float]] = {
        "exp": lambda beta: beta / scale,
        "softplus": lambda beta: -math.expm1(-beta),
        "linear": lambda beta: 1.0,
    }
    if mode not in slopes:
        raise ValueError(f"`mode` must be one of {list(slopes)}, got {mode!r}")
    if not 0 < scale < math.inf:
        raise ValueError(f"`scale` must be positive, got {scale!r}")
    slope = slopes[mode]

    def rate(time: float, state: State) -> State:
        beta, log_gap = state
        aligned = -math.expm1(2 * log_gap)
        pull = math.exp(-beta * aligned)
        return slope(beta) ** 2 * aligned * pull, -2 * beta * pull

    start = (_positive("inverse_temperature", inverse_temperature), math.log(_gap(gap)))
    return [FlowPoint(t, beta, math.exp(log)) for t, (beta, log) in _integrate(rate, start, times, steps_per_decade)]


def scheduled_flow(
    times: Sequence[float], schedule: Schedule, duration: float, *, gap: float = 0.5, steps_per_decade: int = 400
) -> list[FlowPoint]:
    """Integrate the same flow with a temperature that follows a schedule.

        dgamma/dt = -2 beta(t) gamma exp(-beta(t) (1 - gamma^2)),   beta(t) = 1 / schedule(t / duration)

    Args:
        times: increasing, in [0, duration].
        schedule: progress in [0, 1] -> tau = 1 / beta.
        duration: the time at which progress is 1.
        gap, steps_per_decade: see `temperature_flow`.

    Raises:
        ValueError: for values out of range.

    Source: Yaras et al., CPAL 2025, appendix C.

    >>> [round(point.gap, 4) for point in scheduled_flow([0.0, 100.0], lambda progress: 0.2, 100.0)]
    [0.5, 0.0004]
    """
    _positive("duration", duration)

    def beta_at(time: float) -> float:
        return 1 / temperature_at(schedule, min(time / duration, 1.0))

    def rate(time: float, state: State) -> State:
        beta = beta_at(time)
        return 0.0, -2 * beta * math.exp(beta * math.expm1(2 * state[1]))

    if times and times[-1] > duration:
        raise ValueError(f"time {times[-1]} is after the end of the schedule, whose duration is {duration}")
    path = _integrate(rate, (0.0, math.log(_gap(gap))), times, steps_per_decade)
    return [FlowPoint(t, beta_at(t), math.exp(log)) for t, (_, log) in path]


def inverse_temperature_on_flow(gap: float, *, start_gap: float, start_inverse_temperature: float) -> float:
    """Compute beta from gamma on the flow for `beta = exp(nu)`: `beta_0 sqrt(g_0 / g) exp((g^2 - g_0^2) / 4)`.

    This holds for any loss, since time drops out of dgamma / dbeta = -2 gamma / (beta (1 - gamma^2)).

    Source: Yaras et al., CPAL 2025, lemma 3.1.

    >>> inverse_temperature_on_flow(0.5, start_gap=0.5, start_inverse_temperature=5.0)
    5.0
    """
    growth = math.sqrt(_gap(start_gap) / _gap(gap)) * math.exp((gap**2 - start_gap**2) / 4)
    return start_inverse_temperature * growth


def linear_schedule_rate(start: float, end: float) -> float:
    """Compute the mean of `beta e^-beta` for beta from `start` to `end`: how fast a linear schedule closes the gap.

        c = ((start + 1) e^-start - (end + 1) e^-end) / (end - start),   start e^-start where the two are equal

    A small gamma falls like `exp(-2 c t)` over the duration t of the schedule. A learned temperature has no such rate:
    its beta grows, and c goes to zero.

    Source: Yaras et al., CPAL 2025, appendix C, where the factor 2 of the flow is left out of the exponent.

    >>> round(linear_schedule_rate(20.0, 20.0), 12) == round(20 * math.exp(-20), 12)
    True
    """
    _positive("start", start), _positive("end", end)
    if start == end:
        return start * math.exp(-start)
    return ((start + 1) * math.exp(-start) - (end + 1) * math.exp(-end)) / (end - start)


def _integrate(
    rate: Callable[[float, State], State], state: State, times: Sequence[float], steps_per_decade: int
) -> list[tuple[float, State]]:
    """Integrate by Runge-Kutta in s = log(1 + t), where all decades have the same length; d/ds = (1 + t) d/dt."""
    if any(later < earlier for earlier, later in zip([0.0, *times], times, strict=False)):
        raise ValueError(f"`times` must increase and be at least 0, got {list(times)}")
    if steps_per_decade < 1:
        raise ValueError(f"`steps_per_decade` must be at least 1, got {steps_per_decade!r}; 400 is the default")

    def slope(s: float, state: State) -> State:
        first, second = rate(math.expm1(s), state)
        return first * math.exp(s), second * math.exp(s)

    path, position = [], 0.0
    for time in times:
        target = math.log1p(time)
        count = math.ceil((target - position) / math.log(10) * steps_per_decade)
        step = (target - position) / max(count, 1)
        for index in range(count):
            state = _runge_kutta(slope, position + index * step, state, step)
        position = target
        path.append((time, state))
    return path


def _runge_kutta(slope: Callable[[float, State], State], s: float, state: State, step: float) -> State:
    def at(share: float, direction: State) -> State:
        return state[0] + share * step * direction[0], state[1] + share * step * direction[1]

    first = slope(s, state)
    second = slope(s + step / 2, at(0.5, first))
    third = slope(s + step / 2, at(0.5, second))
    fourth = slope(s + step, at(1.0, third))
    mean = [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(first, second, third, fourth, strict=True)]
    return at(1.0, (mean[0], mean[1]))


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be positive and finite, got {value!r}")
    return value


def _gap(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"half the gap, gamma, must lie in (0, 1), got {value!r}")
    return value
