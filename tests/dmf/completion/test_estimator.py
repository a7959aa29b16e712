"""What `MatrixCompletion` computes: against closed forms, a convex solver, and symmetries of the problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix

pytest.importorskip("sklearn")

from dmf import CompressedDMF, MatrixCompletion
from dmf.completion.biases import fit_biases
from dmf.completion.data import matrix_entries
from dmf.completion.model import CompletionModel, Seen
from dmf.completion.settings import noise_level
from tests.dmf.completion.cases import low_rank, ratings, triplets, with_missing
from tests.reference.completion import feedback, nuclear_objective, ridge_biases, soft_impute

EXACT = {"biases": False, "weight_decay": 0.0, "dtype": "float64", "random_state": 0}


@pytest.mark.parametrize(("rank", "batch_size"), [(4, None), (8, None), (4, 100)])
def test_a_low_rank_matrix_is_recovered_from_some_of_its_entries(rank, batch_size):
    whole = low_rank(60, 50, rank=2)
    data = with_missing(whole, 0.5)
    settings = {**EXACT, "rank": rank, "batch_size": batch_size, "init_scale": 0.3}
    model = MatrixCompletion(max_epochs=500 if batch_size is None else 60, **settings).fit(data)
    missing = np.isnan(data)
    relative = np.linalg.norm((model.complete() - whole)[missing]) / np.linalg.norm(whole[missing])
    assert relative <= 1e-2, "the mean of the entries, the best guess without structure, has relative error 1"


def test_a_long_run_reaches_the_minimum_of_the_convex_problem():
    data = with_missing(low_rank(15, 12, rank=2) + 0.3 * np.random.default_rng(5).standard_normal((15, 12)), 0.3)
    model = MatrixCompletion(
        rank=12, biases=False, weight_decay=0.5, max_epochs=3000, dtype="float64", random_state=0
    ).fit(data)
    # Values are divided by their root mean square: so is the decay of W = scale * W'.
    count = int((~np.isnan(data)).sum())
    decay = 0.5 * noise_level(count, data.shape) * np.sqrt(np.nanmean(data**2))
    lowest = nuclear_objective(soft_impute(data, decay), data, decay)
    found = nuclear_objective(model.complete(), data, decay)
    assert lowest * (1 - 1e-9) <= found <= lowest * (1 + 1e-4)
    assert found < 0.9 * nuclear_objective(np.zeros_like(data), data, decay), "the data must not be explained by zero"


@pytest.mark.parametrize("decay", [0.1, 5.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_biases_solve_the_normal_equations(decay, seed):
    data = ratings(seed=seed)
    found, expected = fit_biases(matrix_entries(data).entries, "both", decay), ridge_biases(data, decay)
    # lsqr stops at a relative residual of 1e-12; the condition number is at most (40 + decay) / decay.
    for mine, theirs in zip(found, expected, strict=True):
        assert np.abs(mine - theirs).max() <= 1e-9


@given(st.integers(0, 1000), st.sampled_from(["rows", "columns"]), st.floats(0.01, 20))
@settings(max_examples=25, deadline=None)
def test_biases_of_one_side_are_shrunk_means(seed, side, decay):
    data = ratings(9, 7, seed=seed)
    biases = fit_biases(matrix_entries(data).entries, side, decay)
    axis, mine, other = (1, biases.row, biases.column) if side == "rows" else (0, biases.column, biases.row)
    counts = (~np.isnan(data)).sum(axis)
    expected = np.nansum(data - np.nanmean(data), axis) / (counts + decay)
    assert np.abs(mine - expected).max() <= 1e-9 and not other.any()


def test_feedback_adds_the_mean_vectors_of_what_was_observed():
    data, generator = ratings(8, 6), torch.Generator().manual_seed(0)
    entries = matrix_entries(data).entries
    options = {"dtype": torch.float64, "generator": generator}
    model = CompletionModel(
        CompressedDMF(8, 6, 4, **options),
        torch.zeros(8),
        torch.zeros(6),
        biases=True,
        mean=0.0,
        scale=1.0,
        feedback=True,
    )
    with torch.no_grad():
        model.row_feedback.copy_(torch.randn(6, 4, **options))
        model.column_feedback.copy_(torch.randn(8, 4, **options))
        explicit = model.explicit_factors()
        left, right = (f[:, :4].numpy() for f in model.predicting_factors(explicit, Seen.of(entries)))
        y, z = model.row_feedback.numpy(), model.column_feedback.numpy()
    observed = ~np.isnan(data)
    assert np.abs(left - explicit.left.numpy() - feedback(observed, y)).max() <= 1e-14
    assert np.abs(right - explicit.right.detach().numpy() - feedback(observed.T, z)).max() <= 1e-14


def test_decay_of_the_factors_is_never_below_the_nuclear_norm_and_counts_each_part():
    generator = torch.Generator().manual_seed(1)
    options = {"dtype": torch.float64, "generator": generator}
    factorization = CompressedDMF(7, 5, 4, init_scale=0.7, **options)
    b, c = torch.randn(7, **options), torch.randn(5, **options)
    model = CompletionModel(factorization, b, c, biases=True, mean=0.0, scale=1.0, feedback=False)
    with torch.no_grad():
        explicit = model.explicit_factors()
        nuclear = torch.linalg.svdvals(factorization()).sum().item()
        assert model.penalty(explicit, 2.0, 0.0, 0.0).item() >= 2.0 * nuclear
        biases_alone = model.penalty(explicit, 0.0, 3.0, 9.0).item()
    assert biases_alone == pytest.approx(1.5 * (b.square().sum() + c.square().sum()).item(), rel=1e-14)


def test_triplets_dense_and_sparse_data_give_the_same_model():
    data = ratings()
    rows, cols, values = triplets(data)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = (rows[order], cols[order], values[order])
    settings = {"rank": 4, "max_epochs": 10, "random_state": 0, "validation_fraction": 0.2}
    dense = MatrixCompletion(**settings).fit(data).complete()
    sparse = coo_matrix((shuffled[2], shuffled[:2]), shape=data.shape)
    for arguments in [(sparse,), (sparse.tocsc(),), (sparse.tocsr(),), shuffled]:
        model = MatrixCompletion(**settings).fit(*arguments, **({"shape": data.shape} if len(arguments) == 3 else {}))
        assert np.array_equal(model.complete(), dense)


def test_a_stored_zero_is_an_observation():
    rows, cols = np.indices((6, 5)).reshape(2, -1)
    values = np.where((rows + cols) % 3 == 0, 0.0, 2.0)
    sparse = coo_matrix((values, (rows, cols)))
    dense = values.reshape(6, 5)
    settings = {"rank": 4, "max_epochs": 5, "random_state": 0}
    assert np.array_equal(
        MatrixCompletion(**settings).fit(sparse).complete(), MatrixCompletion(**settings).fit(dense).complete()
    )


@pytest.mark.parametrize("implicit_feedback", [False, True])
def test_another_unit_of_the_data_changes_predictions_by_that_unit_alone(implicit_feedback):
    data = ratings()
    settings = {"rank": 4, "max_epochs": 20, "random_state": 0, "dtype": "float64"}
    one = MatrixCompletion(implicit_feedback=implicit_feedback, **settings).fit(data).complete()
    # Rounding of the data (eps * 4e3) passes through 20 steps of Adam, each of which divides by gradients.
    for unit, offset in ((1000, -70), (1e-27, 0), (1e27, 0)):
        other = MatrixCompletion(implicit_feedback=implicit_feedback, **settings).fit(unit * data + offset).complete()
        assert np.abs(other - (unit * one + offset)).max() <= 1e-6 * np.abs(other).max()


def test_predictions_are_the_formula_of_the_fitted_attributes():
    model = MatrixCompletion(rank=4, max_epochs=5, random_state=0).fit(ratings())
    formula = model.mean_ + model.row_bias_[:, None] + model.column_bias_[None, :] + model.left_ @ model.right_.T
    rows, cols = np.indices(formula.shape)
    tolerance = 1e-12 * np.abs(formula).max()
    assert np.abs(model.complete() - formula).max() <= tolerance
    assert np.abs(model.predict(rows, cols) - formula).max() <= tolerance
    assert np.abs(model.predict(3, np.arange(20)) - formula[3]).max() <= tolerance
    assert np.isscalar(model.predict(3, 4).item()) and model.predict(np.array([], int), np.array([], int)).shape == (0,)


def test_rows_and_columns_without_entries_fall_back_on_what_is_known():
    data = ratings()
    data[4], data[:, 7] = np.nan, np.nan
    for implicit_feedback in (False, True):
        model = MatrixCompletion(rank=4, max_epochs=10, random_state=0, implicit_feedback=implicit_feedback).fit(data)
        completed = model.complete()
        assert np.allclose(completed[4], model.mean_ + model.column_bias_, rtol=1e-14)
        assert np.allclose(completed[:, 7], model.mean_ + model.row_bias_, rtol=1e-14)
        assert completed[4, 7] == model.mean_


@pytest.mark.parametrize("biases", [True, False, "none", "global", "rows", "columns", "both"])
def test_each_choice_of_biases_has_those_and_no_other(biases):
    model = MatrixCompletion(rank=2, max_epochs=5, biases=biases, random_state=0).fit(ratings())
    assert bool(model.mean_) == (biases not in (False, "none"))
    assert model.row_bias_.any() == (biases in (True, "both", "rows"))
    assert model.column_bias_.any() == (biases in (True, "both", "columns"))


def test_constant_data_are_completed_by_the_constant():
    data = with_missing(np.full((8, 6), 4.0))
    completed = MatrixCompletion(rank=2, random_state=0).fit(data).complete()
    assert np.abs(completed - 4.0).max() <= 0.05


def test_predictions_are_clipped_where_that_is_asked_for():
    data = np.where(np.isnan(ratings()), np.nan, np.clip(ratings(noise=2.0), 1, 5))
    settings = {"rank": 4, "max_epochs": 60, "weight_decay": 0.0, "random_state": 0}
    free = MatrixCompletion(**settings).fit(data).complete()
    assert free.min() < 1 and free.max() > 5, "nothing to clip shows nothing"
    assert np.array_equal(MatrixCompletion(clip=True, **settings).fit(data).complete(), np.clip(free, 1, 5))
    assert np.array_equal(MatrixCompletion(clip=(2, 3), **settings).fit(data).complete(), np.clip(free, 2, 3))


def test_the_score_is_minus_the_root_mean_squared_error():
    data, other = ratings(), with_missing(ratings(seed=5), 0.5)
    model = MatrixCompletion(rank=4, max_epochs=5, random_state=0).fit(data)
    expected = -np.sqrt(np.nanmean((model.complete() - other) ** 2))
    assert model.score(other) == pytest.approx(expected, rel=1e-12)
    assert model.score(*triplets(other)) == pytest.approx(expected, rel=1e-12)


def test_implicit_feedback_finds_structure_in_what_is_observed():
    rng = np.random.default_rng(0)
    taste, kind = rng.integers(0, 2, 150), rng.integers(0, 2, 60)
    alike = taste[:, None] == kind
    whole = np.where(alike, 4.0, 2.0) + 0.8 * rng.standard_normal(alike.shape)
    data = np.where(rng.random(alike.shape) < np.where(alike, 0.2, 0.04), whole, np.nan)
    held_out = np.where(np.isnan(data) & (rng.random(alike.shape) < 0.3), whole, np.nan)
    scores = [
        MatrixCompletion(rank=4, implicit_feedback=implicit, random_state=0).fit(data).score(held_out)
        for implicit in (False, True)
    ]
    assert scores[1] > scores[0] + 0.05
    assert scores[1] < -0.8 * 0.97, "below the noise would mean that held-out values were seen"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch_size", [None, 50])
def test_a_fit_on_the_gpu_agrees_with_the_cpu(batch_size):
    settings = {"rank": 4, "max_epochs": 5, "random_state": 0, "dtype": "float64", "batch_size": batch_size}
    cpu, gpu = (MatrixCompletion(device=name, **settings).fit(ratings()).complete() for name in ("cpu", "cuda"))
    assert np.abs(cpu - gpu).max() <= 1e-8
