"""Schedules give the temperatures of the paper's table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modality import ConstantSchedule, CosineAlternation, LinearSchedule, PiecewiseSchedule

PROGRESS = st.floats(0, 1)


@given(PROGRESS)
def test_linear_is_a_straight_line_from_start_to_end(progress) -> None:
    schedule = LinearSchedule(start=0.01, end=0.05)
    assert schedule(0) == 0.01 and schedule(1) == pytest.approx(0.05)
    assert schedule(progress) == pytest.approx(np.interp(progress, [0, 1], [0.01, 0.05]), rel=1e-12)


@given(PROGRESS)
def test_alternation_is_a_cosine_between_both_temperatures(progress) -> None:
    schedule = CosineAlternation(0.01, 0.04, periods=3)
    assert schedule(progress) == pytest.approx(0.025 - 0.015 * math.cos(6 * math.pi * progress), rel=1e-9)
    assert 0.01 <= schedule(progress) <= 0.04 + 1e-15


@given(PROGRESS)
def test_piecewise_interpolates_its_points_and_is_constant_outside(progress) -> None:
    points = ((0.1, 0.01), (0.4, 0.05), (0.7, 0.02))
    expected = np.interp(progress, *zip(*points, strict=True))
    assert PiecewiseSchedule(points)(progress) == pytest.approx(expected, rel=1e-12)


def test_two_points_at_one_place_are_a_jump() -> None:
    schedule = PiecewiseSchedule(((0.0, 0.01), (0.5, 0.01), (0.5, 0.05), (1.0, 0.05)))
    assert schedule(0.499) == 0.01 and schedule(0.501) == 0.05


def test_schedules_are_values_that_can_be_compared_and_hashed() -> None:
    assert len({ConstantSchedule(0.04), ConstantSchedule(0.04), LinearSchedule(), PiecewiseSchedule([[0, 1]])}) == 3
    assert ConstantSchedule(0.3)(0.77) == 0.3
