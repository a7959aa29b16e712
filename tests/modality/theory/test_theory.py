"""The scalar flow: the published fixtures, a second integrator, and the closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from modality import ConstantSchedule, LinearSchedule
from modality.theory import (
    inverse_temperature_on_flow,
    linear_schedule_rate,
    scheduled_flow,
    synthetic_training,
    temperature_flow,
)

TIMES = [1e2, 1e4, 1e6]


def gaps(mode, scale=1.0):
    return [point.gap for point in temperature_flow(TIMES, mode, scale=scale)]


def test_the_flow_gives_the_recorded_digits() -> None:
    assert [f"{gap:.3f}" for gap in gaps("exp")] == ["0.137", "0.053", "0.028"]
    first, *later = gaps("softplus")
    assert f"{first:.4f}" == "0.0015" and max(later) < 1e-20


def test_the_recorded_digits_of_the_flattened_exponential_are_those_of_an_euler_step() -> None:
    # Recorded are .0258, 2e-4 and ~0; exactly, by two integrators (see below), the first two are .0263 and 2.5e-4.
    def euler(step):
        beta, gap = 5.0, 0.5
        for _ in range(round(1e2 / step)):
            beta, gap = euler_step(beta, gap, step)
        at_100 = gap
        for _ in range(round((1e4 - 1e2) / step)):
            beta, gap = euler_step(beta, gap, step)
        return at_100, gap

    def euler_step(beta, gap, step):
        pull = math.exp(-beta * (1 - gap**2))
        return beta + step * (beta / 2) ** 2 * (1 - gap**2) * pull, gap - step * 2 * beta * gap * pull

    coarse = euler(0.2)
    assert (f"{coarse[0]:.4f}", f"{coarse[1]:.0e}") == ("0.0258", "2e-04")
    first, second, third = gaps("exp", scale=2.0)
    assert euler(0.02) == pytest.approx((first, second), rel=4e-3) and third < 2e-5


@pytest.mark.parametrize(
    ("mode", "scale"), [("exp", 1.0), ("exp", 2.0), ("exp", 10.0), ("softplus", 1.0), ("linear", 1.0)]
)
def test_a_library_integrator_of_the_printed_equations_agrees(mode, scale) -> None:
    slopes = {"exp": lambda b: b / scale, "softplus": lambda b: 1 - math.exp(-b), "linear": lambda b: 1.0}

    def rate(s, state):
        beta, log_gap = state
        aligned = 1 - math.exp(2 * log_gap)
        pull = math.exp(s - beta * aligned)
        return [slopes[mode](beta) ** 2 * aligned * pull, -2 * beta * pull]

    ends = [math.log1p(t) for t in TIMES]
    start = [5.0, math.log(0.5)]
    solution = solve_ivp(rate, (0, ends[-1]), start, t_eval=ends, rtol=1e-10, atol=1e-12, method="LSODA")
    found = temperature_flow(TIMES, mode, scale=scale)
    assert [point.inverse_temperature for point in found] == pytest.approx(solution.y[0], rel=1e-6)
    assert [math.log(point.gap) for point in found] == pytest.approx(solution.y[1], rel=1e-6)


def test_the_exponential_flow_stays_on_the_curve_of_the_lemma() -> None:
    for point in temperature_flow([0.0, 1.0, *TIMES]):
        expected = inverse_temperature_on_flow(point.gap, start_gap=0.5, start_inverse_temperature=5.0)
        assert point.inverse_temperature == pytest.approx(expected, rel=1e-8)


def test_the_exponential_gap_closes_as_slowly_as_one_over_log_squared() -> None:
    """gamma log^2 t tends to a constant from below, with corrections of order log log t / log t."""
    points = temperature_flow([1e6, 1e12, 1e24, 1e48], steps_per_decade=100)
    products = [point.gap * math.log(point.time) ** 2 for point in points]
    growth = [later / earlier for earlier, later in itertools.pairwise(products)]
    assert growth[0] > growth[1] > growth[2] > 1 and growth[2] < 1.15


def test_the_linear_temperature_grows_as_the_root_of_the_log_of_the_gap() -> None:
    first, second = (p.inverse_temperature**2 + math.log(p.gap) for p in temperature_flow([1e3, 1e7], "linear"))
    assert first == pytest.approx(second, abs=0.01)  # d beta / d log gamma = -1 / (2 beta) once gamma is small


def test_a_constant_temperature_closes_the_gap_at_the_rate_of_the_theory() -> None:
    early, late = scheduled_flow([200.0, 600.0], ConstantSchedule(0.2), 1000.0)
    rate = math.log(early.gap / late.gap) / 400
    assert rate == pytest.approx(2 * linear_schedule_rate(5.0, 5.0), rel=1e-4)


def test_a_schedule_linear_in_the_inverse_closes_it_at_the_mean_rate() -> None:
    def schedule(progress):
        return 1 / (4 + 2 * progress)

    start, end = scheduled_flow([0.0, 400.0], schedule, 400.0, gap=1e-3)
    rate = math.log(start.gap / end.gap) / 400
    assert rate == pytest.approx(2 * linear_schedule_rate(4.0, 6.0), rel=1e-4)


def test_the_mean_rate_is_the_integral() -> None:
    integral, _ = quad(lambda beta: beta * math.exp(-beta), 3.0, 7.0)
    assert linear_schedule_rate(3.0, 7.0) == pytest.approx(integral / 4, rel=1e-10)
    assert linear_schedule_rate(7.0, 3.0) == pytest.approx(integral / 4, rel=1e-10)


def test_learned_temperatures_grow_a_gap_until_pairs_match_and_then_close_it_slowly() -> None:
    run = synthetic_training(num_pairs=16, duration=100.0, steps=150, points=30)
    largest = int(np.argmax([point.gap for point in run]))
    assert 0 < largest < 20 and run[largest].margin < 0 < run[-1].margin
    assert run[-1].gap < run[largest].gap and run[-1].tau < 0.1 < max(point.tau for point in run)
    assert run[0].time == 0 and run[-1].time == pytest.approx(100.0) and len(run) == 31


def test_a_scheduled_temperature_ends_where_the_schedule_does() -> None:
    schedule = LinearSchedule(0.1, 0.4)
    run = synthetic_training(num_pairs=8, duration=10.0, steps=30, points=3, mode="scheduled", schedule=schedule)
    assert [point.tau for point in run] == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=1e-6)
