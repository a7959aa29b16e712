"""Products of chains and their starts, against loops and definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.functional import chain_apply, chain_product, identity_chain, orthogonal, orthogonal_chain

EPS = torch.finfo(torch.float64).eps
few = settings(max_examples=40, deadline=None)
widths = st.lists(st.integers(1, 9), min_size=2, max_size=6)
seeds = st.integers(0, 2**31 - 1)


def random_chain(sizes: list[int], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(out, into, dtype=torch.float64, generator=generator)
        for into, out in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def rounding(factors: list[torch.Tensor]) -> float:
    """Error bound of a product: one eps for each term of each inner product, times the Frobenius norms."""
    terms = sum(factor.shape[1] for factor in factors)
    return 4 * EPS * terms * math.prod(factor.norm().item() for factor in factors)


@few
@given(widths, seeds)
def test_chain_product_is_the_nested_sum_over_all_paths(sizes, seed):
    factors = random_chain(sizes, seed)
    product = [[float(i == j) for j in range(sizes[0])] for i in range(sizes[0])]
    for factor in factors:
        rows = factor.tolist()
        product = [[sum(row[k] * product[k][j] for k in range(len(product))) for j in range(sizes[0])] for row in rows]
    error = (chain_product(factors) - torch.tensor(product, dtype=torch.float64)).abs().max().item()
    assert error <= rounding(factors)


@few
@given(widths, seeds, st.integers(0, 5))
def test_applying_a_chain_is_multiplying_by_its_product(sizes, seed, rows):
    factors = random_chain(sizes, seed)
    x = torch.randn(rows, sizes[0], dtype=torch.float64)
    difference = chain_apply(x, factors) - x @ chain_product(factors).mT
    assert difference.shape == (rows, sizes[-1])
    assert difference.norm().item() <= rounding(factors) * (1 + x.norm().item())


@few
@given(widths.filter(lambda sizes: len(sizes) > 2), seeds, st.data())
def test_a_chain_may_be_cut_anywhere(sizes, seed, data):
    factors = random_chain(sizes, seed)
    cut = data.draw(st.integers(1, len(factors) - 1))
    apart = chain_product(factors[cut:]) @ chain_product(factors[:cut])
    assert (chain_product(factors) - apart).norm().item() <= rounding(factors)


def test_a_stacked_tensor_is_a_chain_with_batch_dimensions_after_the_first():
    stacked = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    product = chain_product(stacked)
    assert product.shape == (2, 4, 4)
    for batch in range(2):
        factors = [stacked[level, batch] for level in range(3)]
        assert torch.allclose(product[batch], factors[2] @ factors[1] @ factors[0], rtol=0, atol=rounding(factors))


def test_one_factor_is_its_own_product():
    factor = torch.randn(3, 2)
    assert torch.equal(chain_product([factor]), factor)


@pytest.mark.parametrize("empty", [[], torch.zeros(0, 2, 2)])
def test_an_empty_chain_is_refused(empty):
    with pytest.raises(ValueError, match="at least one factor, got none"):
        chain_product(empty)


def test_one_width_is_not_a_chain():
    with pytest.raises(ValueError, match=r"at least two widths .* got \[3\]"):
        orthogonal_chain([3])


@few
@given(st.integers(1, 20), st.integers(1, 20), seeds)
def test_orthogonal_has_orthonormal_columns_or_rows(rows, columns, seed):
    q = orthogonal(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert q.shape == (rows, columns) and q.is_contiguous()
    gram = q.mT @ q if rows >= columns else q @ q.mT
    # Householder QR: a modest constant times sqrt(terms) eps for each entry.
    assert (gram - torch.eye(len(gram), dtype=torch.float64)).abs().max().item() <= 20 * EPS * max(rows, columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
def test_half_precision_is_drawn_in_float32_and_rounded_once(dtype, shape):
    def draw(dtype):
        return orthogonal(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)

    q = draw(dtype)
    assert q.dtype == dtype
    assert torch.equal(q, draw(torch.float32).to(dtype))
    wide = q.double()
    gram = wide.mT @ wide if shape[0] >= shape[1] else wide @ wide.mT
    # Each entry is off by at most half an eps of its size, so a Gram entry by an eps of its unit columns.
    error = (gram - torch.eye(min(shape), dtype=torch.float64)).abs().max().item()
    assert error <= 1.01 * torch.finfo(dtype).eps


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6)])
def test_orthogonal_prefers_no_direction_and_no_sign(shape):
    draws = 2000
    generator = torch.Generator().manual_seed(0)
    sample = torch.stack([orthogonal(*shape, generator=generator, dtype=torch.float64) for _ in range(draws)])
    d = max(shape)
    # Haar: entries have mean 0 and variance 1/d. 5 standard errors; fourth moment 3 / (d (d + 2)).
    assert sample.mean(0).abs().max().item() <= 5 * (1 / d / draws) ** 0.5
    spread = (3 / (d * (d + 2)) - 1 / d**2) ** 0.5
    assert (sample.square().mean(0) - 1 / d).abs().max().item() <= 5 * spread / draws**0.5


def test_orthogonal_follows_its_generator():
    first, again, other = (orthogonal(5, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@few
@given(widths, st.floats(1e-4, 10.0), seeds)
def test_every_factor_of_an_orthogonal_chain_scales_vectors_by_init_scale(sizes, init_scale, seed):
    generator = torch.Generator().manual_seed(seed)
    chain = orthogonal_chain(sizes, init_scale, generator=generator, dtype=torch.float64)
    assert [tuple(factor.shape) for factor in chain] == list(zip(sizes[1:], sizes[:-1], strict=True))
    for factor in chain:
        values = torch.linalg.svdvals(factor)
        assert (values / init_scale - 1).abs().max().item() <= 20 * EPS * max(sizes)


@few
@given(st.integers(1, 6), st.integers(1, 7), st.floats(1e-3, 4.0))
def test_an_identity_chain_multiplies_to_a_power_of_its_scale(depth, width, init_scale):
    chain = identity_chain(depth, width, init_scale, dtype=torch.float64)
    assert chain.shape == (depth, width, width)
    expected = init_scale**depth * torch.eye(width, dtype=torch.float64)
    error = (chain_product(chain) - expected).abs().max().item()
    assert error <= 2 * depth * EPS * init_scale**depth


def test_the_cores_of_an_identity_chain_do_not_share_memory():
    chain = identity_chain(3, 2)
    chain[0, 0, 0] = 7.0
    assert chain[1, 0, 0] == chain[2, 0, 0] == 1.0
