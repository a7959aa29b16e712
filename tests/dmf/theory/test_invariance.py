"""The theorem along whole runs of the modules: still directions, rho, the distance to the compressed run."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf import CompressedDMF, DeepMatrixFactorization, dense_loss, parameter_groups
from dmf.functional import orthogonal
from dmf.linalg import effective_rank, factor_svd
from dmf.theory import compression_error, descend, invariance_residual, rho_recursion

EPS = torch.finfo(torch.float64).eps
few = settings(max_examples=40, deadline=None)
SIZE, RANK, STEP = 20, 2, 0.05
runs = pytest.mark.parametrize(
    ("init_scale", "weight_decay", "depth"),
    [(1.0, 0.0, 3), (0.5, 1e-2, 3), (0.3, 1e-3, 4), (0.7, 0.0, 2), (0.1, 0.0, 3)],
)


def wide_model(init_scale: float, depth: int) -> DeepMatrixFactorization:
    generator = torch.Generator().manual_seed(depth)
    return DeepMatrixFactorization(
        SIZE, SIZE, depth=depth, init_scale=init_scale, generator=generator, dtype=torch.float64
    )


def low_rank_target() -> torch.Tensor:
    left, right = (
        orthogonal(SIZE, RANK, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (5, 6)
    )
    return left * torch.tensor([3.0, 2.0]) @ right.mT


def compressed_model(wide: DeepMatrixFactorization, target: torch.Tensor) -> CompressedDMF:
    return CompressedDMF.from_gradient(wide, -target, 2 * RANK)  # the theorem's own matrix: exact at any init_scale


def gradient_descent(parameters, weight_decay: float = 0.0, **settings) -> torch.optim.SGD:
    """Step STEP on the sum of squares: `dense_loss` is a mean over SIZE^2 entries."""
    return torch.optim.SGD(parameters, lr=STEP * SIZE**2, weight_decay=weight_decay / SIZE**2, **settings)


@runs
def test_the_squared_distance_of_compressed_and_wide_is_m_times_the_product_of_rho(init_scale, weight_decay, depth):
    num_steps, still = 400, SIZE - 2 * RANK
    target, wide = low_rank_target(), wide_model(init_scale, depth)
    compressed = compressed_model(wide, target)
    groups = parameter_groups(compressed, STEP, gamma=0.0)
    both = zip(
        descend(lambda: dense_loss(wide(), target), gradient_descent(wide.parameters(), weight_decay), num_steps),
        descend(
            lambda: dense_loss(compressed(), target), gradient_descent(groups[0]["params"], weight_decay), num_steps
        ),
        strict=True,
    )
    bound = still * init_scale ** (2 * depth)
    expected = compression_error(rho_recursion([init_scale] * depth, STEP, num_steps, weight_decay=weight_decay), still)
    losses = []
    for (step, loss), _ in both:
        distance = (wide() - compressed()).square().sum().item()
        # 400 steps, each with products of d x d matrices of norm 3: rounding of about eps d 3^2 a step.
        assert abs(distance - expected[step].item()) <= 400 * EPS * SIZE * 9 * (1 + bound)
        assert distance <= bound * (1 + 1e-9)
        losses.append(loss)
    assert losses[-1] < 0.1 * losses[0] and len(losses) == num_steps + 1


@runs
def test_gradient_descent_keeps_every_factor_in_the_form_of_the_theorem(init_scale, weight_decay, depth):
    num_steps = 300
    target, wide = low_rank_target(), wide_model(init_scale, depth)
    start = [factor.detach().clone() for factor in wide.factors]
    moving = compressed_model(wide, target).right
    rho = rho_recursion([init_scale] * depth, STEP, num_steps, weight_decay=weight_decay)
    optimizer = gradient_descent(wide.parameters(), weight_decay)
    for step, _ in descend(lambda: dense_loss(wide(), target), optimizer, num_steps, every=50):
        residual = invariance_residual(list(wide.factors), start, moving)
        assert residual.coupling.max().item() <= 1e-12 and residual.anisotropy.max().item() <= 1e-12
        assert (residual.rho - rho[step]).abs().max().item() <= 1e-12


def residual_after(optimizer_class, moving=None, **options):
    target, wide = low_rank_target(), wide_model(0.5, 3)
    start = [factor.detach().clone() for factor in wide.factors]
    basis = compressed_model(wide, target).right if moving is None else moving
    list(descend(lambda: dense_loss(wide(), target), optimizer_class(wide.parameters(), **options), 100, every=100))
    return invariance_residual(list(wide.factors), start, basis)


def test_momentum_keeps_the_form_and_adam_does_not():
    momentum = residual_after(torch.optim.SGD, lr=STEP * SIZE**2 / 10, momentum=0.9)
    adam = residual_after(torch.optim.Adam, lr=1e-2)
    assert momentum.coupling.max().item() <= 1e-12 and momentum.anisotropy.max().item() <= 1e-12
    assert adam.coupling.min().item() >= 0.1 and adam.anisotropy.min().item() >= 0.1


def test_another_subspace_shows_a_residual():
    other = orthogonal(SIZE, 2 * RANK, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    assert residual_after(torch.optim.SGD, other, lr=STEP * SIZE**2).coupling.min().item() >= 0.1


def test_a_target_of_higher_rank_shows_a_residual():
    wide = wide_model(0.5, 3)
    start = [factor.detach().clone() for factor in wide.factors]
    noise = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = low_rank_target() + 0.3 * noise
    moving = compressed_model(wide, target).right
    list(descend(lambda: dense_loss(wide(), target), gradient_descent(wide.parameters()), 100))
    assert invariance_residual(list(wide.factors), start, moving).anisotropy.min().item() >= 1e-2


def test_a_moving_subspace_of_everything_leaves_nothing_still():
    start = [torch.eye(3)] * 2
    residual = invariance_residual(start, start, torch.eye(3))
    assert all(part.tolist() == [0.0, 0.0] for part in residual)


@few
@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=4), st.floats(0.0, 0.3), st.floats(0.0, 0.5))
def test_the_recursion_is_scalar_descent_on_half_the_squared_product(scales, step, decay):
    scalars = torch.tensor(scales, dtype=torch.float64, requires_grad=True)
    rho = rho_recursion(scales, step, 5, weight_decay=decay)
    for row in rho:
        assert torch.allclose(row, scalars.detach(), rtol=1e-12, atol=1e-15)
        half = 0.5 * scalars.prod().square() + 0.5 * decay * scalars.square().sum()
        (gradient,) = torch.autograd.grad(half, scalars)
        scalars = (scalars - step * gradient).detach().requires_grad_()


def test_without_a_step_nothing_shrinks():
    assert rho_recursion([0.5, 0.25], 0.1, 0).tolist() == [[0.5, 0.25]]
    assert rho_recursion([0.5, 0.25], 0.0, 3)[-1].tolist() == [0.5, 0.25]


def test_training_from_a_small_start_finds_the_rank_of_the_target():
    target = low_rank_target()
    model = compressed_model(wide_model(0.01, 3), target)
    optimizer = gradient_descent(parameter_groups(model, STEP * SIZE**2, gamma=0.0)[0]["params"])
    ranks = [effective_rank(factor_svd(*model.two_factors()).values.detach()).item()]
    list(descend(lambda: dense_loss(model(), target), optimizer, 3000, every=3000))
    ranks.append(effective_rank(factor_svd(*model.two_factors()).values.detach()).item())
    assert math.isclose(ranks[0], 2 * RANK, rel_tol=1e-9)
    expected = effective_rank(torch.tensor([3.0, 2.0], dtype=torch.float64)).item()
    assert math.isclose(ranks[1], expected, rel_tol=1e-3)
