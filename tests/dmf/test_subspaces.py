"""The implicit orthogonal map, and the closed form of the outer factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.linalg import leading_subspaces, orthonormalize
from dmf.subspaces import OrthogonalMap, compressed_subspaces, one_sided_subspaces
from tests.dmf.cases import gaussian
from tests.measure import LargestTensor

EPS = torch.finfo(torch.float64).eps
few = settings(max_examples=30, deadline=None)


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
