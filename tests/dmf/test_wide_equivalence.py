"""The closed form against the authors' construction, and the theorem that makes it right: both in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.functional import chain_product, identity_chain, orthogonal_chain
from dmf.linalg import leading_subspaces
from dmf.subspaces import OrthogonalMap, compressed_subspaces
from tests.reference import wide_construction as authors

SHAPES = [(12, 12), (15, 9), (9, 15), (20, 5), (5, 20)]


def closed_form(gradient: np.ndarray, start: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    q = torch.from_numpy(start)
    svd = leading_subspaces(torch.from_numpy(gradient), half)
    u, v = compressed_subspaces(svd.left, svd.right, lambda m: q @ m, lambda m: q.mT @ m)
    return u.numpy(), v.numpy()


def completion_gradient(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gradient of `1/2 ||mask * (W - target)||^2`, the first one of a matrix completion."""
    mask = rng.random(weight.shape) < 0.6
    return mask * (weight - rng.standard_normal(weight.shape))


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half", [1, 2])
def test_closed_form_equals_the_authors_construction(shape, depth, half):
    eps, rng = 1e-3, np.random.default_rng(100 * depth + shape[0])
    factors = authors.wide_start(*shape, depth, eps, rng)
    gradient = completion_gradient(authors.product(factors), rng)
    left, right = authors.compressed_factors(factors, gradient, half, eps)
    u, v = closed_form(gradient, authors.product(factors) / eps**depth, half)
    assert u.shape == left.shape == (shape[0], 2 * half) and v.shape == right.shape == (shape[1], 2 * half)
    # Rounding grows by ||G|| over the gap of its singular values, below 1e4 here: 1e-12, so the bar of 1e-10 is wide.
    assert np.linalg.norm(authors.projector(u) - authors.projector(left)) <= 1e-10
    assert np.linalg.norm(authors.projector(v) - authors.projector(right)) <= 1e-10
    assert np.linalg.norm(u @ v.T - left @ right.T) <= 1e-10


@settings(max_examples=40, deadline=None)
@given(
    st.integers(4, 14), st.integers(4, 14), st.integers(2, 5), st.integers(1, 3), st.floats(1e-3, 1.0),
    st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_closed_form_equals_the_authors_construction_for_any_shape(rows, columns, depth, half, eps, seed):
    half = min(half, (max(rows, columns) - 1) // 2, min(rows, columns) - 1)
    rng = np.random.default_rng(seed)
    factors = authors.wide_start(rows, columns, depth, eps, rng)
    u, _, vh = np.linalg.svd(rng.standard_normal((rows, columns)), full_matrices=False)
    gradient = (u * 0.5 ** np.arange(len(vh))) @ vh  # well separated singular values: the subspace is well defined
    left, right = authors.compressed_factors(factors, gradient, half, eps)
    mine = closed_form(gradient, authors.product(factors) / eps**depth, half)
    assert np.linalg.norm(mine[0] @ mine[1].T - left @ right.T) <= 1e-10


def test_the_rank_may_fill_the_larger_side():
    rng = np.random.default_rng(0)
    factors = authors.wide_start(4, 6, 3, 0.1, rng)
    gradient = rng.standard_normal((4, 6))
    left, right = authors.compressed_factors(factors, gradient, 3, 0.1)
    u, v = closed_form(gradient, authors.product(factors) / 0.1**3, 3)
    assert np.linalg.norm(u @ v.T - left @ right.T) <= 1e-10


def test_factor_gradients_of_the_reference_are_those_of_autograd():
    rng = np.random.default_rng(1)
    factors = authors.wide_start(3, 5, 4, 0.7, rng)
    gradient = rng.standard_normal((3, 5))
    leaves = [torch.tensor(factor, requires_grad=True) for factor in factors]
    (chain_product(leaves) * torch.from_numpy(gradient)).sum().backward()
    for index, leaf in enumerate(leaves):
        assert np.allclose(leaf.grad.numpy(), authors.factor_gradient(factors, gradient, index), rtol=0, atol=1e-14)


# ---- the theorem of the invariant subspace (Yaras et al., ICML 2024) -------------------------------------------------


def descend(factors: list[torch.Tensor], loss_of: Callable, step: float, decay: float) -> list[torch.Tensor]:
    """One step of gradient descent with weight decay on every factor of a chain."""
    leaves = [factor.detach().requires_grad_() for factor in factors]
    loss = loss_of(chain_product(leaves))
    gradients = torch.autograd.grad(loss, leaves)
    return [((1 - step * decay) * w - step * g).detach() for w, g in zip(leaves, gradients, strict=True)]


@pytest.mark.parametrize(("eps", "decay", "depth"), [(1.0, 0.0, 3), (0.5, 1e-3, 3), (0.3, 1e-4, 4), (0.7, 0.0, 2)])
def test_the_compressed_trajectory_follows_the_wide_one_up_to_the_still_block(eps, decay, depth):
    d, rank, step, steps = 14, 2, 0.02, 150
    generator = torch.Generator().manual_seed(depth)
    options = {"dtype": torch.float64, "generator": generator}
    target = torch.randn(d, rank, **options) @ torch.randn(rank, d, **options) / d**0.5
    wide = orthogonal_chain([d] * (depth + 1), eps, **options)
    q = chain_product(wide) / eps**depth
    svd = leading_subspaces(-target, rank)
    u, v = compressed_subspaces(svd.left, svd.right, lambda m: q @ m, lambda m: q.mT @ m)
    cores = list(identity_chain(depth, 2 * rank, eps, dtype=torch.float64))
    rho, still = [eps] * depth, d - 2 * rank

    def wide_loss(product):
        return 0.5 * (product - target).square().sum()

    def compressed_loss(product):
        return 0.5 * (u @ product @ v.mT - target).square().sum()

    start = wide_loss(chain_product(wide)).item()
    for _ in range(steps):
        distance = (chain_product(wide) - u @ chain_product(cores) @ v.mT).square().sum().item()
        expected = still * np.prod(rho) ** 2
        # Rounding of d^2 entries of size ||W||, amplified by the descent.
        assert abs(distance - expected) <= 1e-11 * (1 + still * eps ** (2 * depth))
        assert expected <= still * eps ** (2 * depth) * (1 + 1e-12)
        wide = descend(wide, wide_loss, step, decay)
        cores = descend(cores, compressed_loss, step, decay)
        factors = [1 - step * decay - step * np.prod(rho[:i] + rho[i + 1 :]) ** 2 for i in range(depth)]
        rho = [value * factor for value, factor in zip(rho, factors, strict=True)]
    assert wide_loss(chain_product(wide)).item() < 0.5 * start, "a run that stands still shows nothing"


def test_an_implicit_orthogonal_map_serves_as_the_start_of_the_closed_form():
    shape, half, eps = (9, 13), 2, 0.1
    rng = np.random.default_rng(3)
    gradient = rng.standard_normal(shape)
    q = OrthogonalMap(*shape, seed=7)
    dense = q(torch.eye(shape[1], dtype=torch.float64)).numpy()
    svd = leading_subspaces(torch.from_numpy(gradient), half)
    u, v = compressed_subspaces(svd.left, svd.right, q, q.transpose)
    # A wide chain of depth 2 that starts at eps^2 times that very map.
    square = authors.wide_start(shape[1], shape[1], 1, eps, rng)[0]
    factors = [square, eps * dense @ np.linalg.inv(square) * eps]
    left, right = authors.compressed_factors(factors, gradient, half, eps)
    assert np.linalg.norm(u.numpy() @ v.numpy().T - left @ right.T) <= 1e-10
