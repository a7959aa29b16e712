"""Decompositions, angles, the implicit orthogonal map, and the closed form of the compressed bases."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.functional import orthogonal
from dmf.linalg import block_krylov_svd, factor_svd, leading_subspaces, orthonormalize, principal_angles
from dmf.subspaces import OrthogonalMap, compressed_subspaces, one_sided_subspaces
from tests.measure import LargestTensor

EPS = torch.finfo(torch.float64).eps
few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 12)


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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


# ---- the implicit orthogonal map -------------------------------------------------------------------------------------


@few
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_orthogonal_map_is_an_isometry_on_its_smaller_side_and_has_its_transpose(rows, columns, seed):
    q = OrthogonalMap(rows, columns, seed)
    forward = q(torch.eye(columns, dtype=torch.float64))
    backward = q.transpose(torch.eye(rows, dtype=torch.float64))
    assert forward.shape == (rows, columns) and backward.shape == (columns, rows)
    tolerance = 50 * EPS * (1 + np.log2(max(rows, columns)))  # FFT: eps log d
    assert (forward - backward.mT).abs().max().item() <= tolerance
    gram = forward @ forward.mT if rows <= columns else forward.mT @ forward
    assert (gram - torch.eye(min(rows, columns), dtype=torch.float64)).abs().max().item() <= tolerance


def test_orthogonal_map_follows_its_seed_alone():
    block = gaussian(9, 2, seed=0)
    first, again = OrthogonalMap(6, 9, seed=4)(block), OrthogonalMap(6, 9, seed=4)(block)
    torch.manual_seed(123)
    assert torch.equal(first, again) and torch.equal(first, OrthogonalMap(6, 9, seed=4)(block))
    assert not torch.equal(first, OrthogonalMap(6, 9, seed=5)(block))


@pytest.mark.parametrize("shape", [(500, 700), (700, 500)])
def test_orthogonal_map_never_makes_a_matrix_of_its_own_shape(shape):
    k = 3
    with LargestTensor() as seen:
        q = OrthogonalMap(*shape, seed=0)
        q(torch.zeros(shape[1], k))
        q.transpose(torch.zeros(shape[0], k))
    assert 0 < seen.numel <= 2 * max(shape) * k  # the spectrum is complex


@pytest.mark.parametrize("device_dtype", [torch.float32, torch.float64])
def test_orthogonal_map_keeps_the_dtype_of_its_argument(device_dtype):
    assert OrthogonalMap(4, 6, seed=0)(torch.zeros(6, 1, dtype=device_dtype)).dtype == device_dtype


# ---- the closed form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_compressed_subspaces_hold_the_gradients_leading_directions_on_both_sides(shape):
    svd = leading_subspaces(gaussian(*shape, seed=1), 2)
    q = OrthogonalMap(*shape, seed=2)
    u, v = compressed_subspaces(svd.left, svd.right, q, q.transpose)
    assert u.shape == (shape[0], 4) and v.shape == (shape[1], 4)
    u, v = orthonormalize(u), orthonormalize(v)
    assert (svd.right - v @ (v.mT @ svd.right)).norm().item() <= 1e-13
    assert (svd.left - u @ (u.mT @ svd.left)).norm().item() <= 1e-13
    larger = v if shape[0] <= shape[1] else u
    assert (larger.mT @ larger - torch.eye(4, dtype=torch.float64)).abs().max().item() <= 50 * EPS * max(shape)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
@pytest.mark.parametrize("rank", [3, 4])
def test_one_sided_subspaces_are_the_leading_right_vectors_and_their_images(shape, rank):
    right = leading_subspaces(gaussian(*shape, seed=1), rank).right
    q = OrthogonalMap(*shape, seed=2)
    u, v = one_sided_subspaces(right, q)
    dense = q(torch.eye(shape[1], dtype=torch.float64))
    assert torch.equal(v, right)
    assert (u - dense @ right).abs().max().item() <= 50 * EPS * max(shape)


@pytest.mark.parametrize("shape", [(4, 5), (5, 4)])
def test_a_rank_that_does_not_fit_the_larger_side_is_refused(shape):
    q = OrthogonalMap(*shape, seed=0)
    left, right = torch.zeros(shape[0], 3), torch.zeros(shape[1], 3)
    with pytest.raises(
        ValueError,
        match=rf"a compressed factorization of rank 6 does not fit .* {shape[0]} x {shape[1]}; use a rank of at most 5",
    ):
        compressed_subspaces(left, right, q, q.transpose)
