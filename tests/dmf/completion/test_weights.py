"""Weights of entries: their definition, in the loss, the biases, the units and the score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from dmf import MatrixCompletion, ObservedEntries, observed_loss
from dmf.completion.biases import fit_biases
from dmf.completion.data import matrix_entries
from dmf.completion.units import column_units
from tests.dmf.completion.cases import low_rank, ratings, triplets

DATA = ratings()
ROWS, COLS, VALUES = triplets(DATA)
WEIGHTS = np.random.default_rng(0).uniform(0.1, 3.0, len(VALUES))
QUICK = {"rank": 4, "max_epochs": 10, "random_state": 0}
VARIANTS = [{}, {"implicit_feedback": True}, {"batch_size": 50}, {"validation_fraction": 0.2}, {"column_scales": True}]


def completed(*data, weights=None, **settings) -> np.ndarray:
    return MatrixCompletion(**{**QUICK, **settings}).fit(*data, sample_weight=weights).complete()


def test_the_loss_is_the_weighted_mean():
    entries = ObservedEntries(*map(torch.from_numpy, (ROWS, COLS, VALUES)), (30, 20), torch.from_numpy(WEIGHTS))
    left, right = torch.randn(30, 3, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    squares = ((left @ right.T).numpy()[ROWS, COLS] - VALUES) ** 2
    assert observed_loss(left, right, entries).item() == pytest.approx(0.5 * np.average(squares, weights=WEIGHTS))
    total = 0.5 * (WEIGHTS * squares).sum() / 600
    assert observed_loss(left, right, entries, average="all").item() == pytest.approx(total)
    single = entries.to(dtype=torch.float32)
    assert single.weights.dtype == torch.float32 and single.with_values(single.values).weights is single.weights


@pytest.mark.parametrize("settings", VARIANTS)
def test_only_ratios_of_weights_matter_and_equal_ones_change_nothing(settings):
    plain = completed(ROWS, COLS, VALUES, **settings)
    assert np.abs(completed(ROWS, COLS, VALUES, weights=np.full(len(VALUES), 4.0), **settings) - plain).max() <= 1e-4
    one = completed(ROWS, COLS, VALUES, weights=WEIGHTS, **settings)
    assert np.abs(completed(ROWS, COLS, VALUES, weights=8 * WEIGHTS, **settings) - one).max() <= 1e-4
    assert np.abs(one - plain).max() > 0.01, "the weights count"


@pytest.mark.parametrize("settings", VARIANTS)
def test_an_entry_of_weight_zero_is_as_if_it_were_absent(settings):
    absent = np.random.default_rng(1).random(len(VALUES)) < 0.2
    expected = completed(ROWS[~absent], COLS[~absent], VALUES[~absent], weights=WEIGHTS[~absent], **settings)
    found = completed(ROWS, COLS, VALUES, weights=np.where(absent, 0.0, WEIGHTS), **settings)
    assert np.array_equal(found, expected)


def test_weights_beside_a_matrix_and_beside_pairs_are_those_of_triplets():
    whole = np.where(np.isnan(DATA), 1.0, 0.0)
    whole[ROWS, COLS] = WEIGHTS
    expected = completed(ROWS, COLS, VALUES, weights=WEIGHTS)
    assert np.array_equal(completed(DATA, weights=whole), expected)
    assert np.array_equal(completed(np.c_[ROWS, COLS], VALUES, weights=WEIGHTS), expected)
    of_rows = np.linspace(0.5, 2, 30)
    assert np.array_equal(completed(DATA, weights=of_rows), completed(ROWS, COLS, VALUES, weights=of_rows[ROWS]))


@pytest.mark.parametrize("decay", [0.1, 5.0])
def test_biases_solve_the_weighted_normal_equations(decay):
    entries = matrix_entries(DATA).entries
    weights = WEIGHTS / WEIGHTS.mean()
    mean, row, column = fit_biases(entries.with_weights(torch.from_numpy(weights)), "both", decay)
    assert mean == pytest.approx(np.average(VALUES, weights=WEIGHTS))
    residual = weights * (VALUES - mean - row[ROWS] - column[COLS])
    # The gradient of the ridge regression is zero; lsqr stops at a relative residual of 1e-12.
    assert np.abs(np.bincount(ROWS, residual) - decay * row).max() <= 1e-8
    assert np.abs(np.bincount(COLS, residual) - decay * column).max() <= 1e-8


def test_units_of_columns_are_weighted_means_and_deviations():
    entries = matrix_entries(DATA * np.geomspace(1, 1e4, 20)).entries.with_weights(torch.from_numpy(WEIGHTS))
    offset, unit = column_units(entries, True, True)
    for column in range(20):
        values, weights = entries.values.numpy()[COLS == column], WEIGHTS[COLS == column]
        mean = np.average(values, weights=weights)
        assert offset[column] == pytest.approx(mean)
        assert unit[column] == pytest.approx(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def test_entries_that_are_known_to_be_noisy_do_less_harm_with_small_weights():
    truth = low_rank(60, 40, 2)
    rng = np.random.default_rng(2)
    rows, cols = np.nonzero(rng.random(truth.shape) < 0.5)
    deviations = np.where(rng.random(len(rows)) < 0.5, 0.1, 3.0)
    values = truth[rows, cols] + deviations * rng.standard_normal(len(rows))
    model = MatrixCompletion(rank=6, biases=False, weight_decay=0.2, random_state=0)
    without = np.sqrt(np.mean((model.fit(rows, cols, values).complete() - truth) ** 2))
    with_weights = model.fit(rows, cols, values, sample_weight=deviations**-2).complete()
    assert np.sqrt(np.mean((with_weights - truth) ** 2)) < 0.7 * without


def test_the_score_and_folding_in_are_weighted(tmp_path):
    model = MatrixCompletion(**QUICK).fit(ROWS, COLS, VALUES, sample_weight=WEIGHTS)
    squares = (model.predict(ROWS, COLS) - VALUES) ** 2
    expected = -np.sqrt(np.average(squares, weights=WEIGHTS))
    assert model.score(ROWS, COLS, VALUES, sample_weight=WEIGHTS) == pytest.approx(expected)
    model.save(tmp_path / "model")
    loaded = MatrixCompletion.load(tmp_path / "model")
    heavy = [[99, 99], [3, 4], [1.0, 5.0]]
    model.fold_in(*heavy, sample_weight=[1e-6, 50.0]), loaded.fold_in(*heavy, sample_weight=[1e-6, 50.0])
    assert np.array_equal(model.complete(), loaded.complete())
    assert abs(model.predict(99, 4) - 5.0) < abs(model.predict(99, 3) - 1.0)


def test_a_checkpoint_of_other_weights_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "fit"
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # as if the fit had been killed at its end
    model = MatrixCompletion(**QUICK, checkpoint=str(path)).fit(ROWS, COLS, VALUES, sample_weight=WEIGHTS)
    with pytest.raises(ValueError, match="belongs to a fit with other settings or other data"):
        model.fit(ROWS, COLS, VALUES, sample_weight=WEIGHTS[::-1])


BAD_WEIGHTS = {
    "negative": (-WEIGHTS, "sample_weight has negative, NaN or infinite entries; pass 0 to leave an entry out"),
    "not finite": (np.full(len(VALUES), np.nan), "sample_weight has negative, NaN or infinite"),
    "all zero": (np.zeros(len(VALUES)), "the weights in sample_weight are all zero, so nothing is left"),
    "too few": (WEIGHTS[:3], r"sample_weight has shape \(3,\), and the values \(\d+,\); pass one for each"),
    "words": (np.full(len(VALUES), "much"), "sample_weight must be real numbers, got <U4"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_bad_weights_are_refused(name):
    weights, text = BAD_WEIGHTS[name]
    with pytest.raises(ValueError, match=text):
        completed(ROWS, COLS, VALUES, weights=weights)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"and the matrix \(30, 20\); pass one weight for each row, or"):
        completed(DATA, weights=np.ones(20))
    entries = matrix_entries(DATA).entries
    with pytest.raises(ValueError, match="weights must be like the values, of shape .*float64, got .*float32"):
        entries.with_weights(torch.ones(len(entries)))
    with pytest.raises(
        ValueError, match="weights must be finite and positive; leave out entries that should not count"
    ):
        entries.with_weights(torch.zeros(len(entries), dtype=torch.float64))
