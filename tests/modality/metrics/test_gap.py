"""The metrics of the gap are their definitions, and what closed forms say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from modality import PairStatistics, modality_gap
from modality.metrics import linear_separability, mean_shift, uniformity
from tests.reference import contrastive as slow

WIDTH = 6


def pairs(count=60, seed=0, offset=0.4, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator, dtype=torch.float64)
    y = x + torch.randn(count, width, generator=generator, dtype=torch.float64)
    x[:, 0] += offset
    y[:, 0] -= offset
    return x, y


def statistics_of(x, y, **settings):
    statistics = PairStatistics(x.shape[1], **settings)
    statistics.update(x, y)
    return statistics


@given(st.integers(0, 50), st.integers(10, 80), st.floats(0, 3))
def test_every_metric_is_its_definition(seed, count, offset) -> None:
    x, y = pairs(count, seed, offset)
    found = modality_gap(statistics_of(x, y))
    expected = slow.metrics(x.numpy(), y.numpy())
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_parallel_modalities_have_the_gap_and_alignment_of_the_theory() -> None:
    """`[sqrt(1 - g^2) H, +-g]` with the same H: gap 2g, and every pair 2g apart."""
    g, rows = 0.3, torch.nn.functional.normalize(torch.randn(50, WIDTH, dtype=torch.float64), dim=1)
    ends = torch.full((50, 1), g, dtype=torch.float64)
    x, y = (torch.cat([math.sqrt(1 - g**2) * rows, sign * ends], dim=1) for sign in (1, -1))
    found = modality_gap(statistics_of(x, y))
    assert found["gap"] == pytest.approx(2 * g) and found["alignment"] == pytest.approx(4 * g**2)
    assert found["paired_distance"] == pytest.approx(2 * g) and found["distribution_gap"] == pytest.approx(0, abs=1e-6)
    assert found["linear_separability"] == 1.0


def test_a_uniform_sphere_is_uniform_and_a_point_is_not() -> None:
    cross = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]).double()
    assert uniformity(statistics_of(cross, cross)) == pytest.approx(0, abs=1e-6)
    assert modality_gap(statistics_of(cross, cross))["effective_rank"] == pytest.approx(WIDTH)
    point = torch.ones(5, WIDTH, dtype=torch.float64)
    assert uniformity(statistics_of(point, point)) == pytest.approx(-math.sqrt(2))


def test_the_means_and_the_distribution_gap_make_up_the_wasserstein_distance_of_gaussians() -> None:
    """In one dimension it is known: `(m_x - m_y)^2 + (s_x - s_y)^2`."""
    x, y = torch.tensor([[1.0], [3.0]]).double(), torch.tensor([[0.0], [8.0]]).double()
    found = modality_gap(statistics_of(x, y, normalize=False))
    assert (found["gap"], found["distribution_gap"]) == pytest.approx((2.0, 3.0))


def test_modalities_that_are_the_same_cannot_be_told_apart() -> None:
    x, _ = pairs(100)
    found = modality_gap(statistics_of(x, x))
    assert found["gap"] == 0 and found["linear_separability"] == 0.5 == linear_separability(x, x, statistics_of(x, x))


@given(st.integers(0, 50), st.integers(2, 40), st.sampled_from([2, 16, 64]), st.booleans())
def test_the_same_rows_in_another_order_cannot_be_told_apart(seed, count, width, normalize) -> None:
    """Also not with fewer rows than features, where a direction without scatter may have a difference of rounding."""
    x, _ = pairs(count, seed, width=width)
    y = x[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    statistics = statistics_of(x, y, normalize=normalize)
    found = modality_gap(statistics)
    assert found["gap"] == 0 and found["linear_separability"] == 0.5 == linear_separability(x, y, statistics)


@given(st.integers(0, 50), st.integers(2, 40), st.integers(2, 40), st.sampled_from([2, 16, 64]))
def test_modalities_in_one_point_cannot_be_told_apart(seed, count, others, width) -> None:
    row, _ = pairs(1, seed, width=width)
    found = modality_gap(row.repeat(count, 1), row.repeat(others, 1))
    assert found["gap"] == found["distribution_gap"] == 0 and found["linear_separability"] == 0.5
    assert found["effective_rank"] == 1


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_gap_of_a_few_float32_roundings_is_still_a_gap(scale) -> None:
    row = torch.zeros(1, WIDTH, dtype=torch.float64)
    row[0, :2] = torch.tensor([1.0, 1e-7])
    x, y = (scale * row.repeat(500, 1) * sign for sign in (1.0, torch.tensor([1.0, -1, 1, 1, 1, 1])))
    found = modality_gap(statistics_of(x, y, normalize=False))
    assert found["gap"] == pytest.approx(2e-7 * scale) and found["linear_separability"] == 1


@pytest.mark.parametrize("offset", [0.2, 1.0])
def test_counted_separability_is_that_of_scikit_learns_discriminant(offset) -> None:
    (x, y), (test_x, test_y) = pairs(400, 0, offset), pairs(300, 1, offset)
    statistics = statistics_of(x, y)
    unit = [side / side.norm(dim=1, keepdim=True) for side in (x, y, test_x, test_y)]
    classifier = LinearDiscriminantAnalysis(solver="lsqr")
    classifier.fit(torch.cat(unit[:2]).numpy(), [0] * 400 + [1] * 400)
    expected = classifier.score(torch.cat(unit[2:]).numpy(), [0] * 300 + [1] * 300)
    assert linear_separability(test_x, test_y, statistics) == pytest.approx(expected, abs=1e-12)
    fitted = modality_gap(statistics)["linear_separability"]
    assert fitted == pytest.approx(linear_separability(x, y, statistics), abs=4 * 0.5 / math.sqrt(800))


def test_rank_deficient_features_are_separated_along_the_direction_without_scatter() -> None:
    x = torch.tensor([[1.0, 0.0, 0.2], [0.0, 1.0, 0.2]]).double()
    found = modality_gap(statistics_of(x, x * torch.tensor([1, 1, -1]), normalize=False))
    assert found["linear_separability"] == 1.0


def test_the_mean_shift_closes_most_of_the_gap_and_leaves_unit_rows() -> None:
    x, y = pairs(2000, offset=1.0)
    before, after = (modality_gap(statistics_of(*pair))["gap"] for pair in ((x, y), mean_shift(x, y)))
    assert before > 0.5 and after < before / 4
    torch.testing.assert_close(mean_shift(x, y)[0].norm(dim=1), torch.ones(2000).double())
