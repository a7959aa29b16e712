"""Decompositions, angles, the Krylov space, and the effective rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.functional import orthogonal
from dmf.linalg import (
    block_krylov_svd,
    effective_rank,
    factor_svd,
    leading_subspaces,
    orthonormalize,
    principal_angles,
)
from tests.dmf.cases import gaussian

EPS = torch.finfo(torch.float64).eps
few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 12)


# ---- decompositions --------------------------------------------------------------------------------------------------


@few
@given(sizes, sizes, st.integers(1, 20), st.integers(0, 20), seeds)
def test_factor_svd_is_the_svd_of_the_dense_product(out, into, k, rank, seed):
    middle = gaussian(k, min(rank, k), seed=seed) @ gaussian(min(rank, k), k, seed=seed + 1)  # rank-deficient
    left, right = gaussian(out, k, seed=seed + 2) @ middle, gaussian(into, k, seed=seed + 3)
    dense = left @ right.mT
    svd = factor_svd(left, right)
    count = min(out, into, k)
    assert svd.left.shape == (out, count) and svd.right.shape == (into, count) and svd.values.shape == (count,)
    scale = 100 * EPS * k * (left.norm() * right.norm()).item() + EPS  # backward stable: norms of the factors
    assert (svd.values - torch.linalg.svdvals(dense)[:count]).abs().max().item() <= scale
    assert ((svd.left * svd.values) @ svd.right.mT - dense).norm().item() <= scale
    for basis in (svd.left, svd.right):
        gram = basis.mT @ basis - torch.eye(count, dtype=torch.float64)
        assert gram.abs().max().item() <= 50 * EPS * max(out, into, k)


@few
@given(st.integers(2, 12), st.integers(2, 12), seeds)
def test_leading_subspaces_is_the_best_approximation_of_its_rank(out, into, seed):
    matrix = gaussian(out, into, seed=seed)
    rank = max(1, min(out, into) // 2)
    svd = leading_subspaces(matrix, rank)
    tail = torch.linalg.svdvals(matrix)[rank:].norm().item()  # Eckart-Young
    error = (matrix - (svd.left * svd.values) @ svd.right.mT).norm().item()
    assert abs(error - tail) <= 100 * EPS * max(out, into) * matrix.norm().item()


@few
@given(st.integers(3, 12), st.integers(1, 3), seeds)
def test_orthonormalize_keeps_the_column_space(d, k, seed):
    matrix = gaussian(d, k, seed=seed)
    q = orthonormalize(matrix)
    assert (q.mT @ q - torch.eye(k, dtype=torch.float64)).abs().max().item() <= 50 * EPS * d
    assert (matrix - q @ (q.mT @ matrix)).norm().item() <= 50 * EPS * d * matrix.norm().item()


@few
@given(st.integers(0, 6), st.integers(1, 4), seeds, st.floats(1e-9, 1.0))
def test_principal_angles_are_those_of_scipy(spare, k, seed, distance):
    d = 2 * k + spare  # no common directions, where scipy's own angles are good to 1e-8 only
    a = orthonormalize(gaussian(d, k, seed=seed))
    b = orthonormalize(a + distance * gaussian(d, k, seed=seed + 1))  # from nearly equal to unrelated
    expected = torch.from_numpy(scipy.linalg.subspace_angles(a.numpy(), b.numpy()).copy())
    # An arcsine loses digits like 1 / cos(angle): half of them near pi/2.
    tolerance = 100 * EPS * d / torch.cos(expected).clamp(min=1e-8)
    assert bool(((principal_angles(a, b) - expected).abs() <= tolerance).all())


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 0.3])
def test_small_principal_angles_keep_their_digits(angle):
    a = torch.eye(5, dtype=torch.float64)[:, :2]
    b = a.clone()
    b[0, 0], b[3, 0] = np.cos(angle), np.sin(angle)
    angles = principal_angles(a, b)
    assert abs(angles[0].item() - angle) <= 4 * EPS * max(angle, EPS) and angles[1].item() == 0.0


# ---- the iteration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.9, 0.6])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40)])
def test_the_krylov_space_converges_at_least_at_the_stated_rate(shape, ratio):
    k, wanted = 8, 3
    values = ratio ** torch.arange(min(shape), dtype=torch.float64)
    left, right = (orthogonalized(n, min(shape)) for n in shape)
    matrix = (left * values) @ right.mT
    start = gaussian(shape[1], k, seed=5)
    # Halko, Martinsson, Tropp: tan(angle_i) <= (s_{k+1} / s_i)^(2 q + 1) ||tail|| ||inverse of the leading block||.
    seen = right.mT @ start
    constant = (torch.linalg.matrix_norm(seen[k:], 2) * torch.linalg.matrix_norm(torch.linalg.inv(seen[:k]), 2)).item()
    for iterations in range(6):
        svd = block_krylov_svd(lambda m: matrix @ m, lambda m: matrix.mT @ m, start, iterations)
        residual = left[:, :wanted] - svd.left @ (svd.left.mT @ left[:, :wanted])
        bound = constant * (values[k] / values[wanted - 1]).item() ** (2 * iterations + 1) * wanted**0.5
        assert torch.linalg.matrix_norm(residual, 2).item() <= bound + 100 * EPS


def orthogonalized(rows: int, columns: int) -> torch.Tensor:
    return orthogonal(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))


def test_one_block_more_finds_a_map_of_low_rank_exactly():
    matrix = gaussian(20, 3, seed=0) @ gaussian(3, 15, seed=1)
    svd = block_krylov_svd(lambda m: matrix @ m, lambda m: matrix.mT @ m, gaussian(15, 4, seed=2), 1)
    assert ((svd.left * svd.values) @ svd.right.mT - matrix).norm().item() <= 1e3 * EPS * matrix.norm().item()
    assert svd.left.shape == (20, 8) and bool((svd.values.diff() <= 0).all())


def test_the_krylov_space_stops_growing_when_it_is_the_whole_space():
    matrix = gaussian(9, 7, seed=0)
    svd = block_krylov_svd(lambda m: matrix @ m, lambda m: matrix.mT @ m, gaussian(7, 3, seed=1), 10)
    assert svd.values.shape == (7,)
    assert torch.allclose(svd.values, torch.linalg.svdvals(matrix), rtol=1e-12)
    assert ((svd.left * svd.values) @ svd.right.mT - matrix).norm().item() <= 1e3 * EPS * matrix.norm().item()


def test_the_basis_stays_orthonormal_when_the_map_runs_out_of_directions():
    matrix = gaussian(40, 2, seed=0) @ gaussian(2, 30, seed=1)  # blocks after the first one hold only rounding errors
    svd = block_krylov_svd(lambda m: matrix @ m, lambda m: matrix.mT @ m, gaussian(30, 4, seed=2), 4)
    assert (svd.right.mT @ svd.right - torch.eye(20)).abs().max().item() <= 100 * EPS
    assert ((svd.left * svd.values) @ svd.right.mT - matrix).norm().item() <= 1e3 * EPS * matrix.norm().item()


# ---- effective rank --------------------------------------------------------------------------------------------------


@few
@given(st.integers(1, 8), st.floats(1e-3, 1e3), st.integers(0, 5))
def test_equal_singular_values_count_and_zeros_do_not(count, size, zeros):
    values = torch.cat([torch.full((count,), size, dtype=torch.float64), torch.zeros(zeros, dtype=torch.float64)])
    assert math.isclose(effective_rank(values).item(), count, rel_tol=1e-12)


@few
@given(st.lists(st.just(0.0) | st.floats(1e-9, 1e3), min_size=1, max_size=8), st.floats(1e-2, 1e2))
def test_effective_rank_ignores_scale_and_lies_between_one_and_the_rank(values, scale):
    tensor = torch.tensor(values, dtype=torch.float64)
    rank = effective_rank(tensor).item()
    total = sum(values)
    entropy = -sum(v / total * math.log(v / total) for v in values if v / total > 0) if total > 0 else -math.inf
    assert math.isclose(rank, math.exp(entropy), rel_tol=1e-9, abs_tol=0.0)
    assert math.isclose(effective_rank(scale * tensor).item(), rank, rel_tol=1e-9)
    if total > 0:
        assert 1 - 1e-9 <= rank <= sum(v > 0 for v in values) * (1 + 1e-9)
