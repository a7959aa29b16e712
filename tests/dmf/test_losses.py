"""The three losses against their definition and against one another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf import CompressedDMF, DeepMatrixFactorization, ObservedEntries, dense_loss, masked_loss, observed_loss
from tests.dmf.cases import gaussian
from tests.measure import LargestTensor

EPS = torch.finfo(torch.float64).eps
few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**31 - 1)
averages = pytest.mark.parametrize("average", ["observed", "all"])


def random_mask(shape: tuple[int, int], seed: int, share: float = 0.4) -> torch.Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share
    mask[0, 0] = True
    return mask


@few
@given(st.integers(1, 7), st.integers(1, 7), seeds, st.sampled_from(["observed", "all"]))
def test_masked_loss_is_its_definition(out, into, seed, average):
    matrix, target, mask = (
        gaussian(out, into, seed=seed),
        gaussian(out, into, seed=seed + 1),
        random_mask((out, into), seed),
    )
    seen = [(i, j) for i in range(out) for j in range(into) if mask[i, j]]
    total = sum(0.5 * (matrix[i, j] - target[i, j]).item() ** 2 for i, j in seen)
    expected = total / (len(seen) if average == "observed" else out * into)
    assert abs(masked_loss(matrix, target, mask, average=average).item() - expected) <= 10 * out * into * EPS * expected


def test_dense_loss_is_the_masked_loss_of_a_full_mask():
    matrix, target = gaussian(4, 3, seed=0), gaussian(4, 3, seed=1)
    full = torch.ones(4, 3)
    for average in ("observed", "all"):
        assert torch.allclose(
            dense_loss(matrix, target), masked_loss(matrix, target, full, average=average), rtol=1e-15
        )


def test_what_is_not_observed_has_no_influence_even_if_nan():
    matrix, target, mask = gaussian(5, 4, seed=0).requires_grad_(), gaussian(5, 4, seed=1), random_mask((5, 4), 2)
    clean = torch.autograd.grad(masked_loss(matrix, target, mask), matrix)[0]
    broken = torch.where(mask, target, float("nan"))
    loss = masked_loss(matrix, broken, mask.double())
    assert torch.equal(loss, masked_loss(matrix, target, mask))
    assert torch.equal(torch.autograd.grad(loss, matrix)[0], clean) and bool((clean[~mask] == 0).all())


def test_an_empty_mask_gives_a_loss_of_zero():
    assert masked_loss(torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2, 2)).item() == 0.0


@averages
@pytest.mark.parametrize("make", [
    lambda: CompressedDMF(9, 7, rank=4, init_scale=0.8, dtype=torch.float64),
    lambda: DeepMatrixFactorization(9, 7, init_scale=0.8, dtype=torch.float64),
    lambda: DeepMatrixFactorization(9, 7, width=3, depth=2, init_scale=0.8, dtype=torch.float64),
])  # fmt: skip
def test_the_observed_loss_and_its_gradients_are_those_of_the_masked_loss(make, average):
    model, target, mask = make(), gaussian(9, 7, seed=1), random_mask((9, 7), 2)
    entries = ObservedEntries.from_dense(target, mask)
    losses = [
        observed_loss(*model.two_factors(), entries, average=average),
        masked_loss(model(), target, mask, average=average),
    ]
    assert abs(losses[0] - losses[1]).item() <= 100 * EPS * losses[1].item()
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    for sparse, dense in zip(*gradients, strict=True):
        assert dense.norm().item() > 0
        assert (sparse - dense).norm().item() <= 1000 * EPS * dense.norm().item()


def test_derivatives_of_the_observed_loss_are_right():
    entries = ObservedEntries.from_dense(gaussian(5, 4, seed=1), random_mask((5, 4), 2))
    factors = gaussian(5, 2, seed=3).requires_grad_(), gaussian(4, 2, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: observed_loss(a, b, entries), factors)
    assert torch.autograd.gradgradcheck(lambda a, b: observed_loss(a, b, entries), factors)


@pytest.mark.parametrize("mask", [None, random_mask((5, 4), 2)])
def test_derivatives_of_the_dense_losses_are_right_in_both_arguments(mask):
    matrices = gaussian(5, 4, seed=3).requires_grad_(), gaussian(5, 4, seed=4).requires_grad_()

    def loss(matrix, target):
        return dense_loss(matrix, target) if mask is None else masked_loss(matrix, target, mask)

    assert torch.autograd.gradcheck(loss, matrices)
    assert torch.autograd.gradgradcheck(loss, matrices)


def test_the_masked_loss_works_under_functional_transforms():
    matrices, target, mask = gaussian(3, 5, 4, seed=0), gaussian(5, 4, seed=1), random_mask((5, 4), 2)
    gradients = torch.func.vmap(torch.func.grad(lambda matrix: masked_loss(matrix, target, mask, average="all")))(
        matrices
    )
    expected = torch.where(mask, matrices - target, 0.0) / mask.numel()
    assert torch.allclose(gradients, expected, rtol=4 * EPS, atol=0)


def test_float32_loses_no_more_than_its_rounding():
    target, mask = gaussian(40, 30, seed=1), random_mask((40, 30), 2)
    entries = ObservedEntries.from_dense(target, mask)
    left, right = gaussian(40, 5, seed=3), gaussian(30, 5, seed=4)
    exact = observed_loss(left, right, entries).item()
    single = observed_loss(left.float(), right.float(), entries.to(dtype=torch.float32)).item()
    # Each residual carries k roundings of its terms; the mean of many averages them.
    assert abs(single - exact) <= 20 * torch.finfo(torch.float32).eps * exact


def test_a_training_step_on_entries_makes_nothing_of_the_matrix_size():
    n_out, n_in, observed = 700, 600, 5000
    generator = torch.Generator().manual_seed(0)
    flat = torch.randperm(n_out * n_in, generator=generator)[:observed]
    rows, cols, values = flat // n_in, flat % n_in, torch.randn(observed, generator=generator)
    with LargestTensor() as seen:
        entries = ObservedEntries(rows, cols, values, (n_out, n_in))
        model = CompressedDMF.from_entries(entries, rank=4)
        observed_loss(*model.two_factors(), entries).backward()
        model(rows, cols)
    assert model.left.grad is not None
    # A Krylov basis of five blocks with rank/2 + 8 columns.
    assert seen.numel <= 5 * 10 * n_out < n_out * n_in / 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_trains_as_the_cpu_does():
    entries = ObservedEntries.from_dense(gaussian(30, 20, seed=0), random_mask((30, 20), 1))
    losses = {}
    for device in ("cpu", "cuda"):
        model = CompressedDMF.from_entries(entries.to(device), rank=4, init_scale=0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(50):
            optimizer.zero_grad()
            loss = observed_loss(*model.two_factors(), entries.to(device))
            loss.backward()
            optimizer.step()
        losses[device] = loss.item()
    assert abs(losses["cpu"] - losses["cuda"]) <= 1e-8 * losses["cpu"]
