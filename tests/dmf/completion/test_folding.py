"""New entries without a new fit: ridge regressions on fixed factors, and steps that never raise the objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.exceptions import NotFittedError

from dmf import MatrixCompletion
from dmf.completion import folding
from dmf.completion.data import compact, matrix_entries
from dmf.completion.model import Seen
from tests.dmf.completion.cases import low_rank, ratings, triplets, with_missing

DATA = ratings(40, 25)
SETTINGS = {"rank": 4, "max_epochs": 25, "random_state": 0, "dtype": "float64"}
VARIANTS = {
    "default": {},
    "implicit feedback": {"implicit_feedback": True},
    "no biases": {"biases": False, "column_scales": False},
    "biases of rows": {"biases": "rows"},
    "columns in units": {"column_scales": True},
    "nothing is penalized": {"weight_decay": 0.0, "bias_decay": 0.0},
}
KNOWN = {"row_bias_", "left_", "column_bias_", "right_", "column_scale_"}


def without(rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
    """The data without some rows and columns, and those alone."""
    fitted = DATA.copy()
    fitted[rows], fitted[:, cols] = np.nan, np.nan
    return fitted, np.where(np.isnan(fitted), DATA, np.nan)


def fitted_without(rows: slice, cols: slice, **settings) -> tuple[MatrixCompletion, np.ndarray]:
    fitted, new = without(rows, cols)
    model = MatrixCompletion(**{**SETTINGS, **settings}).fit(*triplets(fitted), shape=DATA.shape)
    return model, new


def standardized(model: MatrixCompletion, values: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Values without what the columns say, in the unit of training."""
    beyond = values - model.mean_ - model.column_bias_[cols]
    return beyond / model.column_scale_[cols] / model.model_.scale.item()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "implicit feedback"])
def test_a_new_row_is_the_ridge_regression_on_the_columns(name):
    model, new = fitted_without(slice(38, None), slice(0, 0), **VARIANTS[name])
    before = {each: vars(model)[each].copy() for each in KNOWN}
    model.fold_in(*triplets(new))
    scale, has_bias = model.model_.scale.item(), model.biases is not False
    decay = model.noise_level_ * model.weight_decay
    for row in (38, 39):
        cols = np.flatnonzero(~np.isnan(new[row]))
        design = np.c_[model.right_[cols] / model.column_scale_[cols, None], np.ones(len(cols))][:, : 4 + has_bias]
        penalty = np.diag(np.sqrt([decay] * 4 + [model.bias_decay] * has_bias))
        stacked = np.r_[standardized(model, new[row, cols], cols), np.zeros(4 + has_bias)]
        expected = scale * np.linalg.lstsq(np.r_[design, penalty], stacked, rcond=1e-10)[0]
        found = np.r_[model.left_[row], [model.row_bias_[row]] * has_bias]
        # float64, and normal equations square a condition number of at most 1e3
        assert np.abs(found - expected).max() <= 1e-8 * np.abs(expected).max()
    for each in ("column_bias_", "right_", "column_scale_"):
        assert np.array_equal(vars(model)[each], before[each])
    for each in ("row_bias_", "left_"):
        assert np.array_equal(vars(model)[each][:38], before[each][:38])


def objective(model: MatrixCompletion, data: np.ndarray) -> float:
    """The training objective of the whole data, in standardized values, by its definition."""
    inner = model.model_
    entries = inner.standardize(compact(matrix_entries(data).entries).entries)
    with torch.no_grad():
        explicit = inner.explicit_factors()
        left, right = inner.predicting_factors(explicit, Seen.of(entries))
        squares = ((left @ right.T)[entries.rows, entries.cols] - entries.values).square().sum() / 2
        return (
            squares + inner.penalty(explicit, model.noise_level_ * model.weight_decay, model.bias_decay, 0.0)
        ).item()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "implicit feedback"])
def test_partial_fit_never_raises_the_training_objective(name):
    model = MatrixCompletion(**{**SETTINGS, **VARIANTS[name]}).fit(DATA)
    values = [objective(model, DATA)]
    for _ in range(3):
        values.append(objective(model.partial_fit(DATA), DATA))
        assert values[-1] <= values[-2] * (1 + 1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_was_folded_in_is_predicted_nearly_as_well_as_by_a_new_fit(name):
    model, new = fitted_without(slice(30, None), slice(20, None), **VARIANTS[name])
    rows, cols, values = triplets(new)
    learned = (np.arange(len(rows)) % 4) > 0  # the others are asked for
    model.fold_in(rows[learned], cols[learned], values[learned])
    fitted, _ = without(slice(30, None), slice(20, None))
    fitted[rows[learned], cols[learned]] = values[learned]
    whole = MatrixCompletion(**{**SETTINGS, **VARIANTS[name]}).fit(fitted)
    asked = (rows[~learned], cols[~learned], values[~learned])
    assert -model.score(*asked) <= (2.0 if "nothing" in name else 1.25) * -whole.score(*asked)
    if name in ("default", "implicit feedback", "columns in units"):
        assert -model.score(*asked) < values.std()


def test_a_folded_row_of_a_converged_fit_is_the_row_of_the_fit():
    """At the minimum each row is the ridge solution of its own entries."""
    model = MatrixCompletion(**SETTINGS).fit(DATA)
    for _ in range(40):
        model.partial_fit(DATA)
    filled = model.transform(DATA)
    missing = np.isnan(DATA)
    assert np.array_equal(filled[~missing], DATA[~missing])
    assert np.abs(filled - model.complete())[missing].max() <= 1e-3 * np.nanstd(DATA)


@pytest.mark.parametrize("name", VARIANTS)
def test_transform_of_new_rows_is_what_fold_in_predicts_for_them(name):
    model, new = fitted_without(slice(35, None), slice(0, 0), **VARIANTS[name])
    filled = model.transform(new[35:])
    folded = model.fold_in(*triplets(new)).complete()[35:]
    missing = np.isnan(new[35:])
    assert np.array_equal(filled[~missing], new[35:][~missing])
    assert np.allclose(filled[missing], folded[missing], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_with_new_rows_is_saved_and_can_be_trained_further(name, tmp_path):
    model, new = fitted_without(slice(35, None), slice(22, None), warm_start=True, **VARIANTS[name])
    model.fold_in(*triplets(new))
    model.save(tmp_path / "model")
    loaded = MatrixCompletion.load(tmp_path / "model")
    assert np.array_equal(loaded.complete(), model.complete())
    change = loaded.partial_fit(DATA).complete() - model.partial_fit(DATA).complete()
    assert np.array_equal(change, np.zeros(DATA.shape))
    before = model.score(DATA)
    assert model.fit(DATA).history_[0]["training_rmse"] <= -before * 1.1


def test_names_that_are_new_are_added_and_recommended_to():
    users = np.array([f"user {number:02}" for number in range(40)])
    fitted, new = without(slice(38, None), slice(0, 0))
    rows, cols, values = triplets(fitted)
    model = MatrixCompletion(**SETTINGS).fit(users[rows], cols, values)
    rows, cols, values = triplets(new)
    model.fold_in(users[rows], cols, values)
    assert model.row_ids_[-2:].tolist() == users[38:].tolist()
    assert not set(model.recommend(users[39], 10).items) & set(cols[rows == 39])
    model.fold_in(["user 50"], [cols[0]], [5.0])
    assert model.predict("user 50", int(cols[0])) > model.predict("nobody", int(cols[0]))


def test_a_changed_entry_replaces_the_one_that_was_known():
    model = MatrixCompletion(**SETTINGS).fit(DATA)
    rows, cols, values = triplets(DATA)
    model.partial_fit(rows[:1], cols[:1], values[:1] + 3)
    assert len(model.entries_) == len(values)
    changed = DATA.copy()
    changed[rows[0], cols[0]] += 3
    other = MatrixCompletion(**SETTINGS).fit(DATA)
    other.entries_ = other.entries_.with_values(torch.from_numpy(triplets(changed)[2]))
    other.partial_fit(rows[:1], cols[:1], values[:1] + 3)
    assert np.array_equal(model.complete(), other.complete())
    assert (model.left_[1:] == MatrixCompletion(**SETTINGS).fit(DATA).left_[1:]).all(), "other rows stay"


def test_partial_fit_before_fit_is_fit():
    assert np.array_equal(
        MatrixCompletion(**SETTINGS).partial_fit(DATA).complete(), MatrixCompletion(**SETTINGS).fit(DATA).complete()
    )


def test_a_new_column_gets_its_own_unit():
    units = np.geomspace(1e-2, 1e4, 20)
    truth = low_rank(60, 20, 2) * units + 10 * units
    data = with_missing(truth, 0.2)
    fitted = data.copy()
    fitted[:, 17:] = np.nan
    model = MatrixCompletion(max_epochs=200, weight_decay=0.1, random_state=0).fit(*triplets(fitted), shape=data.shape)
    model.fold_in(*triplets(np.where(np.isnan(fitted), data, np.nan)))
    error = (model.complete() - truth)[:, 17:] / units[17:]
    assert np.sqrt(np.mean(error[np.isnan(data[:, 17:])] ** 2)) <= 0.5 * np.nanstd(truth[:, 17:] / units[17:])


@pytest.mark.parametrize("groups", [1, 3])
def test_blocks_change_nothing(groups, monkeypatch):
    model, new = fitted_without(slice(30, None), slice(0, 0), implicit_feedback=True)
    expected = model.transform(new[30:])
    monkeypatch.setattr(folding, "GROUPS", groups)
    monkeypatch.setattr(folding, "TERMS", 2)
    assert np.allclose(model.transform(new[30:]), expected, rtol=1e-12)


def test_entries_of_known_rows_and_columns_are_refused_by_fold_in_and_other_shapes_by_partial_fit():
    model = MatrixCompletion(**SETTINGS).fit(DATA)
    with pytest.raises(ValueError, match="row 3 and column 5 are both known, and fold_in changes neither; use "):
        model.fold_in([3, 77], [5, 5], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"matrix of shape \(40, 25\), and X has shape \(10, 25\), so its rows"):
        model.partial_fit(DATA[:10])
    with pytest.raises(ValueError, match="X has 24 features"):
        model.transform(DATA[:, :24])
    with pytest.raises(NotFittedError):
        MatrixCompletion().fold_in([0], [0], [1.0])
    of_pairs = MatrixCompletion(**SETTINGS).fit(np.c_[[0, 1, 2], [0, 1, 4]], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="X has 3 columns, and the fitted matrix 5; pass the same columns"):
        of_pairs.transform(np.ones((3, 3)))


def test_a_column_of_which_nothing_is_known_is_not_filled():
    data = DATA.copy()
    data[:, 4] = np.nan
    model = MatrixCompletion(**SETTINGS).fit(data)
    with pytest.raises(ValueError, match="column 4 had no observations in the fit, so its missing entries"):
        model.transform(data)


def test_pairs_are_followed_by_tables_and_new_columns_widen_them():
    rows, cols, values = triplets(DATA)
    model = MatrixCompletion(**SETTINGS).fit(np.c_[rows, cols], values)
    expected = MatrixCompletion(**SETTINGS).fit(rows, cols, values)
    assert np.array_equal(model.transform(DATA), expected.transform(DATA))
    expected.fold_in([0, 3, 4], [25, 25, 25], [3.0, 4.0, 5.0])
    assert expected.transform(np.c_[DATA, np.full(40, np.nan)]).shape == (40, 26) and expected.n_features_in_ == 26
