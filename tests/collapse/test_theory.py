"""The theory holds as an experiment: closed-form minimum, simplex, gradients, Hessian, strict saddles."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from collapse.theory import (
    SphereProduct,
    collapsed_saddle,
    geodesic,
    loss,
    most_negative_curvature,
    riemannian_gradient,
    riemannian_hessian,
    simplex_distance,
    tangent_part,
    unconstrained_features,
    unit_rows,
)

# The cases of Yaras et al., 2022, that the reference checks list: (d, K, scale).
CASES = [(16, 5, 1.0), (4, 5, 1.0), (16, 10, 1.0), (16, 10, 2.0), (16, 10, 5.0), (16, 10, 10.0)]


@pytest.mark.parametrize(("dimension", "classes", "scale"), CASES)
def test_ten_random_starts_reach_the_closed_form_minimum_and_the_simplex(dimension, classes, scale) -> None:
    for seed in range(10):
        result = unconstrained_features(dimension, classes, scale, seed=seed)
        assert result.converged
        assert abs(result.losses[-1] - result.minimum) <= 1e-8
        assert simplex_distance(result.point.weight) < 1e-6
        assert (result.point.weight - result.point.features).abs().max() < 1e-6


def test_several_features_for_each_class_end_on_its_vector() -> None:
    result = unconstrained_features(6, 4, 1.5, per_class=5)
    assert result.converged and abs(result.losses[-1] - result.minimum) <= 1e-8
    assert (result.point.features - result.point.weight.repeat_interleave(5, 0)).abs().max() < 1e-6


def test_with_fewer_dimensions_than_a_simplex_needs_the_closed_form_is_a_lower_bound() -> None:
    result = unconstrained_features(2, 5, 1.0)
    assert result.converged and result.losses[-1] > result.minimum + 1e-3


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(3)
    sizes = ((4, 5), (8, 5))
    draw = [torch.randn(size, generator=generator, dtype=torch.float64) for size in (*sizes, *sizes)]
    point = SphereProduct(unit_rows(draw[0]), unit_rows(draw[1]))
    tangent = SphereProduct(tangent_part(point.weight, draw[2]), tangent_part(point.features, draw[3]))
    return point, tangent, torch.arange(4).repeat(2), 1.7


def along(problem, time):
    point, tangent, labels, scale = problem
    moved = SphereProduct(*(geodesic(p, d, time) for p, d in zip(point, tangent, strict=True)))
    return loss(moved, labels, scale)


def test_the_gradient_is_the_slope_along_geodesics_and_tangent(problem) -> None:
    point, tangent, labels, scale = problem
    gradient = riemannian_gradient(point, labels, scale)
    step = 1e-5
    slope = (along(problem, step) - along(problem, -step)) / (2 * step)
    assert gradient.inner(tangent) == pytest.approx(slope, abs=1e-9)  # step^2 + eps / step
    for p, g in zip(point, gradient, strict=True):
        assert (p * g).sum(1).abs().max() < 1e-15


def test_the_gradient_is_that_of_autograd_projected(problem) -> None:
    point, _, labels, scale = problem
    leaves = [part.clone().requires_grad_() for part in point]
    functional.cross_entropy(scale * leaves[1] @ leaves[0].T, labels).backward()
    for p, leaf, found in zip(point, leaves, riemannian_gradient(point, labels, scale), strict=True):
        torch.testing.assert_close(found, tangent_part(p, leaf.grad), rtol=0, atol=1e-15)


def test_the_hessian_is_the_curvature_along_geodesics_and_self_adjoint(problem) -> None:
    point, tangent, labels, scale = problem
    step = 1e-4
    curvature = (along(problem, step) - 2 * along(problem, 0.0) + along(problem, -step)) / step**2
    image = riemannian_hessian(point, tangent, labels, scale)
    assert image.inner(tangent) == pytest.approx(curvature, abs=1e-6)  # step^2 + eps / step^2
    other = SphereProduct(*(tangent_part(p, torch.randn_like(p)) for p in point))
    adjoint = riemannian_hessian(point, other, labels, scale)
    assert image.inner(other) == pytest.approx(adjoint.inner(tangent), abs=1e-14)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_collapsed_point_is_a_strict_saddle_that_descent_leaves_downhill(scale) -> None:
    point, labels = collapsed_saddle(dimension=6, num_classes=5, per_class=2), torch.arange(5).repeat_interleave(2)
    gradient = riemannian_gradient(point, labels, scale)
    assert gradient.inner(gradient) < 1e-30
    value, direction = most_negative_curvature(point, labels, scale)
    assert value < -1e-2
    escaped = SphereProduct(*(geodesic(p, d, 0.1) for p, d in zip(point, direction, strict=True)))
    assert loss(escaped, labels, scale) < loss(point, labels, scale) - 1e-5


def test_the_least_curvature_is_the_least_eigenvalue_of_the_dense_hessian_and_zero_at_the_minimum() -> None:
    result = unconstrained_features(4, 3, 1.0)
    labels = torch.arange(3)
    for point, negative in ((result.point, False), (collapsed_saddle(4, 3, 1), True)):
        columns = []
        for index in range(24):
            unit = torch.zeros(24, dtype=torch.float64)
            unit[index] = 1.0
            parts = SphereProduct(*(part.reshape(3, 4) for part in unit.split(12)))
            tangent = SphereProduct(*(tangent_part(p, d) for p, d in zip(point, parts, strict=True)))
            image = riemannian_hessian(point, tangent, labels, 1.0)
            columns.append(torch.cat([part.flatten() for part in image]))
        least = torch.linalg.eigvalsh(torch.stack(columns)).min().item()  # 0 for the six normal directions
        value, _ = most_negative_curvature(point, labels, 1.0, steps=3000)
        assert value == pytest.approx(least, abs=1e-6) if negative else value > -1e-8
        assert (least < -0.1) == negative
