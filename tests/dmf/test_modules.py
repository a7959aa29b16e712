"""The wide and the compressed module: starts, entries, construction."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dmf import CompressedDMF, DeepMatrixFactorization, ObservedEntries, masked_loss, observed_loss, parameter_groups
from dmf.linalg import leading_subspaces
from dmf.subspaces import OrthogonalMap, compressed_subspaces
from tests.measure import LargestTensor
from tests.reference import wide_construction as authors

EPS = torch.finfo(torch.float64).eps
few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**31 - 1)
shapes = pytest.mark.parametrize("shape", [(12, 12), (9, 14), (14, 9)])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_models(n_out: int, n_in: int, seed: int) -> list[nn.Module]:
    options = {"generator": generator(seed), "dtype": torch.float64, "init_scale": 0.9}
    return [
        DeepMatrixFactorization(n_out, n_in, **options),
        DeepMatrixFactorization(n_out, n_in, width=2, depth=2, **options),
        DeepMatrixFactorization(n_out, n_in, width=3, depth=5, start="normal", **options),
        CompressedDMF(n_out, n_in, rank=1, depth=1, **options),
        CompressedDMF(n_out, n_in, rank=max(n_out, n_in), depth=4, **options),
    ]


# ---- the dense matrix and its entries --------------------------------------------------------------------------------


@few
@given(st.integers(1, 8), st.integers(1, 8), seeds, st.integers(0, 20))
def test_entries_are_those_of_the_dense_matrix_in_any_order(n_out, n_in, seed, count):
    rows = torch.randint(n_out, (count,), generator=generator(seed))
    cols = torch.randint(n_in, (count,), generator=generator(seed + 1))
    for model in some_models(n_out, n_in, seed):
        dense = model()
        assert dense.shape == (n_out, n_in)
        # Both are sums over paths; at most 5 products of at most 8 terms of size 1.
        assert torch.allclose(model(rows, cols), dense[rows, cols], rtol=0, atol=1e3 * EPS)
        left, right = model.two_factors()
        assert torch.allclose(left @ right.mT, dense, rtol=0, atol=1e3 * EPS)


def test_entries_keep_the_shape_of_their_indices():
    rows, cols = torch.tensor([[0, 1], [2, 0], [1, 1]]), torch.tensor([[1, 0], [1, 1], [0, 1]])
    for model in some_models(3, 2, seed=0):
        assert torch.allclose(model(rows, cols), model()[rows, cols])


def test_entries_carry_gradients_to_every_parameter():
    rows, cols = torch.tensor([0, 3, 3]), torch.tensor([1, 1, 0])
    for model in some_models(4, 3, seed=0):
        parameters = list(model.parameters())
        sparse = torch.autograd.grad(model(rows, cols).square().sum(), parameters)
        dense = torch.autograd.grad(model()[rows, cols].square().sum(), parameters)
        for one, other in zip(sparse, dense, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e3 * EPS) and one.norm().item() > 0


def test_entries_of_a_narrow_or_compressed_matrix_never_make_the_matrix():
    rows = cols = torch.arange(50)
    for model in (DeepMatrixFactorization(2000, 1500, width=5), CompressedDMF(2000, 1500, rank=6)):
        with LargestTensor(*model.parameters()) as seen:
            model(rows, cols).sum().backward()
        assert seen.numel <= 2000 * 6


def test_entries_of_a_wide_matrix_cost_the_rows_that_are_asked_for():
    model = DeepMatrixFactorization(300, 200)
    with torch.no_grad(), LargestTensor(*model.parameters()) as seen:
        model(torch.tensor([7, 7, 9]), torch.tensor([0, 1, 199]))
    assert seen.numel <= 3 * 300


# ---- starts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["orthogonal", "normal", "uniform"])
@shapes
def test_all_starts_have_the_frobenius_norm_of_an_orthogonal_one(start, shape):
    draws, scale = 200, 0.1
    options = {"init_scale": scale, "start": start, "generator": generator(0), "dtype": torch.float64}
    models = [DeepMatrixFactorization(*shape, depth=3, **options) for _ in range(draws)]
    for level in range(3):
        squares = torch.stack([model.factors[level].detach().square().sum() for model in models])
        expected = scale**2 * min(models[0].factors[level].shape)
        # A sum of m n squares of variance v spreads by sqrt(2 m n) v at most: 5 standard errors of the mean.
        count = models[0].factors[level].numel()
        assert abs(squares.mean().item() / expected - 1) <= 5 * (2 / count / draws) ** 0.5


@shapes
def test_orthogonal_factors_have_singular_values_init_scale(shape):
    model = DeepMatrixFactorization(*shape, init_scale=0.3, dtype=torch.float64)
    assert model.width == max(shape)
    for factor in model.factors:
        assert (torch.linalg.svdvals(factor.detach()) - 0.3).abs().max().item() <= 50 * EPS


def test_normal_and_uniform_starts_have_the_stated_distribution():
    options = {"init_scale": 1.0, "generator": generator(0), "dtype": torch.float64}
    normal = DeepMatrixFactorization(300, 200, start="normal", **options).factors[0].detach()
    uniform = DeepMatrixFactorization(300, 200, start="uniform", **options).factors[0].detach()
    variance = min(normal.shape) / normal.numel()
    assert uniform.abs().max().item() <= (3 * variance) ** 0.5
    standard_error = normal.numel() ** -0.5
    for sample, fourth_moment in ((normal, 3.0), (uniform, 1.8)):
        scaled = sample / variance**0.5
        assert abs(scaled.mean().item()) <= 5 * standard_error
        assert abs(scaled.pow(4).mean().item() - fourth_moment) <= 5 * 96**0.5 * standard_error


def test_starts_follow_their_generator_and_dtype():
    for start in ("orthogonal", "normal", "uniform"):
        first, again, other = (
            DeepMatrixFactorization(4, 5, start=start, generator=generator(seed), dtype=torch.float64)()
            for seed in (1, 1, 2)
        )
        assert first.dtype == torch.float64 and torch.equal(first, again) and not torch.equal(first, other)
    assert CompressedDMF(4, 5, 2, dtype=torch.float64).core.dtype == torch.float64


# ---- construction from data ------------------------------------------------------------------------------------------


@shapes
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_from_gradient_equals_the_authors_construction(shape, depth):
    eps, half = 1e-2, 2
    wide = DeepMatrixFactorization(*shape, depth=depth, init_scale=eps, generator=generator(depth), dtype=torch.float64)
    target = torch.randn(shape, generator=generator(1), dtype=torch.float64)
    mask = torch.rand(shape, generator=generator(2)) < 0.6
    product = wide().detach().requires_grad_()
    (gradient,) = torch.autograd.grad(masked_loss(product, target, mask), product)
    model = CompressedDMF.from_gradient(wide, gradient, rank=2 * half)
    factors = [factor.detach().numpy() for factor in wide.factors]
    left, right = authors.compressed_factors(factors, gradient.numpy() * mask.sum().item(), half, eps)
    assert (model.left @ model.right.mT - torch.from_numpy(left @ right.T)).norm().item() <= 1e-10
    assert model.depth == depth and model.rank == 2 * half and model.init_scale == eps


def test_a_large_gradient_is_decomposed_by_iteration_as_well_as_exactly(monkeypatch):
    shape, rank = (60, 50), 6
    wide = DeepMatrixFactorization(*shape, init_scale=0.1, generator=generator(0), dtype=torch.float64)
    values = 0.5 ** torch.arange(50, dtype=torch.float64)
    factors = [DeepMatrixFactorization(n, n, depth=2, init_scale=1.0, dtype=torch.float64)().detach() for n in shape]
    gradient = (factors[0][:, :50] * values) @ factors[1]
    exact = CompressedDMF.from_gradient(wide, gradient, rank)
    monkeypatch.setattr("dmf.subspaces.EXACT_SIDE", 10)
    iterated = CompressedDMF.from_gradient(wide, gradient, rank)
    assert (iterated() - exact()).norm().item() <= 1e-10 * exact().norm().item()


@pytest.mark.parametrize("shape", [(40, 40), (30, 45), (45, 30)])
def test_from_observations_spans_the_leading_singular_vectors_of_the_data(shape):
    half, seed = 3, 5
    data = sum(0.5**i * torch.outer(*(torch.randn(n, generator=generator(9 * i + n)) for n in shape)) for i in range(8))
    mask = torch.rand(shape, generator=generator(1)) < 0.5
    entries = ObservedEntries.from_dense(data.double(), mask)
    model = CompressedDMF.from_observations(entries.rows, entries.cols, entries.values, shape, 2 * half, seed=seed)
    svd = leading_subspaces(-torch.where(mask, data.double(), 0.0), half)
    start = OrthogonalMap(*shape, seed)
    u, v = compressed_subspaces(svd.left, svd.right, start, start.transpose)
    # 8 iterations, 16 more columns: the error falls like (s_20 / s_3)^17.
    assert (model.left @ model.right.mT - u @ v.mT).norm().item() <= 1e-8
    assert torch.equal(model.core.detach(), 1e-3 * torch.eye(2 * half, dtype=torch.float64).expand(3, -1, -1))


def test_from_observations_follows_its_seed_alone():
    entries = ObservedEntries.from_dense(torch.randn(8, 6, generator=generator(0)))
    first = CompressedDMF.from_entries(entries, 4, seed=1)
    torch.manual_seed(99)
    again, other = CompressedDMF.from_entries(entries, 4, seed=1), CompressedDMF.from_entries(entries, 4, seed=2)
    assert torch.equal(first(), again()) and not torch.equal(first(), other())


@pytest.mark.parametrize("shape", [(2, 9), (9, 2), (4, 4), (1, 2)])
def test_the_largest_rank_that_the_errors_allow_works(shape):
    small, large = sorted(shape)
    rank = min(large - large % 2, 2 * small)
    model = CompressedDMF.from_entries(ObservedEntries.from_dense(torch.randn(shape)), rank)
    assert model().shape == shape and bool(model().isfinite().all())


def test_a_saved_state_returns_into_a_fresh_module():
    saved = CompressedDMF.from_entries(ObservedEntries.from_dense(torch.randn(6, 5)), 4, depth=2)
    fresh = CompressedDMF(6, 5, rank=4, depth=2)
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh(), saved())
    assert set(saved.state_dict()) == {"left", "core", "right"}


def test_completion_recovers_a_low_rank_matrix_from_a_third_of_its_entries():
    n, rank = 60, 2
    target = torch.randn(n, rank, generator=generator(0), dtype=torch.float64) @ torch.randn(
        rank, n, generator=generator(1), dtype=torch.float64
    )
    target = target / torch.linalg.matrix_norm(target, 2)
    mask = torch.rand(n, n, generator=generator(2)) < 0.35  # descent at depth 3 is then stable up to 2 / (3 * 0.35)
    entries = ObservedEntries.from_dense(target, mask)
    model = CompressedDMF.from_entries(entries, 2 * rank, init_scale=0.1)
    optimizer = torch.optim.SGD(parameter_groups(model, lr=1.5 * n * n), lr=1.0)  # undoes the mean over all entries
    for _ in range(3000):
        optimizer.zero_grad()
        observed_loss(*model.two_factors(), entries, average="all").backward()
        optimizer.step()
    unseen = target[~mask]
    assert (model()[~mask] - unseen).norm().item() <= 1e-2 * unseen.norm().item()


def test_cores_and_factors_are_found_by_name_in_print_and_in_the_state():
    model = CompressedDMF(5, 4, rank=2)
    assert [name for name, _ in model.named_parameters() if "core" in name] == ["core"]
    assert model.core.shape == (3, 2, 2)
    assert repr(model) == "CompressedDMF(n_out=5, n_in=4, rank=2, depth=3, init_scale=0.001)"
    assert "width=5, depth=3, init_scale=0.001, start='orthogonal'" in repr(DeepMatrixFactorization(5, 4))


def test_known_subspaces_leave_the_global_random_state_alone():
    entries = ObservedEntries.from_dense(torch.randn(8, 6))
    state = torch.get_rng_state()
    model = CompressedDMF.from_entries(entries, rank=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.is_contiguous() and not p.is_meta for p in model.parameters())
