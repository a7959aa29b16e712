"""Sampled and sparse products against dense algebra; their derivatives; what they allocate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf.sparse import SparsityPattern, entry_products, sampled_product, sparse_product
from tests.dmf.cases import gaussian
from tests.measure import LargestTensor

EPS = torch.finfo(torch.float64).eps
few = settings(max_examples=40, deadline=None)
sizes = st.integers(1, 12)
seeds = st.integers(0, 2**31 - 1)


def random_pattern(out: int, into: int, seed: int, share: float = 0.4) -> SparsityPattern:
    """About `share` of all entries, at least one; rows and columns without any are likely."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(out, into, generator=generator) < share
    mask[seed % out, seed % into] = True
    return SparsityPattern.from_sorted(*mask.nonzero(as_tuple=True), (out, into))


def positions(pattern: SparsityPattern) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns, from the pattern's own sparse tensor."""
    return pattern.matrix(torch.ones(len(pattern))).to_sparse_coo().indices().unbind()


def dense_of(values: torch.Tensor, pattern: SparsityPattern) -> torch.Tensor:
    dense = torch.zeros(pattern.shape, dtype=values.dtype)
    dense[positions(pattern)] = values
    return dense


@few
@given(sizes, sizes, st.integers(1, 6), seeds)
def test_sampled_product_is_the_dense_product_at_the_entries(out, into, k, seed):
    pattern = random_pattern(out, into, seed)
    left, right = gaussian(out, k, seed=seed), gaussian(into, k, seed=seed + 1)
    expected = (left @ right.mT)[positions(pattern)]
    assert (sampled_product(left, right, pattern) - expected).abs().max().item() <= 50 * k * EPS


@few
@given(sizes, sizes, st.integers(1, 6), seeds, st.booleans())
def test_sparse_product_is_the_product_with_the_filled_in_matrix(out, into, k, seed, transposed):
    pattern = random_pattern(out, into, seed)
    values = gaussian(len(pattern), seed=seed)
    matrix = gaussian(out if transposed else into, k, seed=seed + 1)
    dense = dense_of(values, pattern)
    expected = (dense.mT if transposed else dense) @ matrix
    error = (sparse_product(values, matrix, pattern, transposed=transposed) - expected).abs().max().item()
    assert error <= 50 * (out + into) * EPS


@few
@given(sizes, sizes, st.integers(1, 6), seeds, st.integers(0, 30))
def test_entry_products_take_any_order_and_repetitions(out, into, k, seed, count):
    left, right = gaussian(out, k, seed=seed), gaussian(into, k, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    rows, cols = (torch.randint(size, (count,), generator=generator) for size in (out, into))
    assert torch.allclose(entry_products(left, right, rows, cols), (left @ right.mT)[rows, cols], rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operands_that_are_not_contiguous_give_the_same(dtype):
    pattern = random_pattern(9, 7, seed=0)
    left, right = gaussian(4, 9, seed=1, dtype=dtype).mT, gaussian(4, 14, seed=2, dtype=dtype).mT[::2]
    values = gaussian(2 * len(pattern), seed=3, dtype=dtype)[::2]
    assert torch.equal(sampled_product(left, right, pattern), sampled_product(left.clone(), right.clone(), pattern))
    for transposed, matrix in ((False, right), (True, left)):
        result = sparse_product(values, matrix, pattern, transposed=transposed)
        again = sparse_product(values.contiguous(), matrix.contiguous(), pattern, transposed=transposed)
        assert result.dtype == dtype and torch.allclose(result, again, rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_first_and_second_derivatives_of_the_sampled_product_are_right():
    pattern = random_pattern(5, 6, seed=2)
    left, right = gaussian(5, 3, seed=0).requires_grad_(), gaussian(6, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: sampled_product(a, b, pattern), (left, right))
    assert torch.autograd.gradgradcheck(lambda a, b: sampled_product(a, b, pattern), (left, right))


@pytest.mark.parametrize("transposed", [False, True])
def test_first_and_second_derivatives_of_the_sparse_product_are_right(transposed):
    pattern = random_pattern(5, 6, seed=2)
    values = gaussian(len(pattern), seed=0).requires_grad_()
    matrix = gaussian(5 if transposed else 6, 3, seed=1).requires_grad_()

    def product(v, m):
        return sparse_product(v, m, pattern, transposed=transposed)

    assert torch.autograd.gradcheck(product, (values, matrix))
    assert torch.autograd.gradgradcheck(product, (values, matrix))


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_only_gradients_that_are_asked_for_are_computed(needs):
    pattern = random_pattern(5, 6, seed=2)
    factors = [gaussian(size, 3, seed=size).requires_grad_(need) for size, need in zip((5, 6), needs, strict=True)]
    sampled_product(*factors, pattern).sum().backward()
    assert [factor.grad is not None for factor in factors] == list(needs)


def test_forward_and_backward_make_nothing_larger_than_the_entries_or_the_factors():
    out, into, k = 300, 200, 30
    pattern = random_pattern(out, into, seed=0, share=0.2)  # 12,000 entries; with k columns 360,000
    assert out * k <= len(pattern) < out * into / 4
    left, right = (torch.randn(size, k, requires_grad=True) for size in (out, into))
    with LargestTensor() as seen:
        sampled_product(left, right, pattern).square().sum().backward()
    assert left.grad is not None and seen.numel == len(pattern)


def test_without_autograd_entry_products_gather_block_by_block():
    left, right = torch.randn(50, 8), torch.randn(50, 8)
    index = torch.arange(400_000) % 50
    with torch.no_grad(), LargestTensor(index) as seen:
        entry_products(left, right, index, index)
    assert seen.numel == len(index)  # the answer itself; gathered rows would be 8 times that


def test_a_pattern_moves_and_keeps_its_indices_in_32_bits():
    pattern = random_pattern(6, 5, seed=1)
    moved = pattern.to("cpu")
    assert moved.shape == (6, 5) and len(moved) == len(pattern)
    for name in ("row_pointers", "columns", "column_pointers", "rows", "permutation"):
        assert getattr(moved, name).dtype == torch.int32 and torch.equal(getattr(moved, name), getattr(pattern, name))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_gives_what_the_cpu_gives(dtype):
    pattern = random_pattern(60, 50, seed=0)
    results = []
    for device in ("cpu", "cuda"):
        left, right = (gaussian(size, 6, seed=size, dtype=dtype).to(device).requires_grad_() for size in pattern.shape)
        entries = sampled_product(left, right, pattern.to(device))
        entries.square().sum().backward()
        results.append([tensor.detach().cpu() for tensor in (entries, left.grad, right.grad)])
    for on_cpu, on_cuda in zip(*results, strict=True):
        # At most 60 terms of products of 6 normal pairs: norms below 60.
        assert torch.allclose(on_cpu, on_cuda, rtol=0, atol=60 * 60 * torch.finfo(dtype).eps)
