"""What a completion must not depend on: empty rows and columns, the unit of the data, and that of an earlier fit."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from dmf import MatrixCompletion
from dmf.completion.data import matrix_entries
from dmf.completion.units import column_units
from tests.dmf.completion.cases import low_rank, ratings, triplets, with_missing

QUICK = {"rank": 4, "max_epochs": 15, "random_state": 0}
VARIANTS = [
    {},
    {"implicit_feedback": True},
    {"validation_fraction": 0.2},
    {"batch_size": 50},
    {"biases": False, "weight_decay": 0.0},
    {"column_scales": True},
    {"rank": 40},
]


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("gaps", [(7, 3), (1, 40), (30_000, 30_000)])
def test_numbers_that_no_entry_has_change_nothing(settings, gaps):
    rows, cols, values = triplets(ratings())
    settings = {**QUICK, **settings}
    plain = MatrixCompletion(**settings).fit(rows, cols, values)
    apart = MatrixCompletion(**settings).fit(gaps[0] * rows, gaps[1] * cols, values)
    everywhere = np.indices((30, 20)).reshape(2, -1)
    expected = plain.predict(*everywhere)
    found = apart.predict(gaps[0] * everywhere[0], gaps[1] * everywhere[1])
    # The rank of the larger matrix may be higher: the columns beyond are zero, but sums are blocked otherwise.
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    if settings["rank"] == 4:
        assert np.array_equal(found, expected)
    assert apart.model_.factorization.left.shape[0] == 30, "empty rows cost nothing"
    assert np.array_equal(apart.rows_, gaps[0] * np.arange(30)) and np.array_equal(
        apart.columns_, gaps[1] * np.arange(20)
    )


def test_room_for_later_rows_changes_nothing_and_gets_what_is_known(tmp_path):
    rows, cols, values = triplets(ratings())
    plain = MatrixCompletion(**QUICK).fit(rows, cols, values)
    roomy = MatrixCompletion(**QUICK).fit(rows, cols, values, shape=(50, 90))
    completed = roomy.complete()
    assert completed.shape == (50, 90) and np.array_equal(completed[:30, :20], plain.complete())
    assert np.array_equal(completed[40, :20], roomy.mean_ + roomy.column_bias_[:20])
    assert np.array_equal(completed[:30, 40], roomy.mean_ + roomy.row_bias_[:30]) and completed[45, 45] == roomy.mean_
    roomy.save(tmp_path / "model")
    loaded = MatrixCompletion.load(tmp_path / "model")
    assert np.array_equal(loaded.complete(), completed) and np.array_equal(loaded.rows_, np.arange(30))


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
@pytest.mark.parametrize("implicit_feedback", [False, True])
def test_equal_values_are_completed_by_that_value_in_any_unit(unit, weight_decay, implicit_feedback):
    data = with_missing(np.full((30, 20), 3 * unit))
    model = MatrixCompletion(weight_decay=weight_decay, implicit_feedback=implicit_feedback, random_state=0)
    assert np.abs(model.fit(data).complete() - 3 * unit).max() <= 1e-9 * 3 * unit


@pytest.mark.parametrize("biases", [True, False])
def test_zeros_are_completed_by_zeros(biases):
    completed = MatrixCompletion(biases=biases, random_state=0).fit(with_missing(np.zeros((12, 9)))).complete()
    assert np.array_equal(completed, np.zeros((12, 9)))


@pytest.mark.parametrize("unit", [1e-150, 1e-27, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-9)])
def test_an_additive_table_is_completed_exactly_in_any_unit(unit, dtype, tolerance):
    rng = np.random.default_rng(0)
    whole = unit * (3 + rng.standard_normal((30, 1)) + rng.standard_normal((1, 20)))
    model = MatrixCompletion(bias_decay=0.0, dtype=dtype, random_state=0).fit(with_missing(whole, 0.5))
    assert np.abs(model.complete() - whole).max() <= tolerance * np.abs(whole).max()


@pytest.mark.parametrize("value", [-7.0, 2.0])
@pytest.mark.parametrize("biases", [True, False])
def test_a_single_entry_is_enough(value, biases):
    settings = {"biases": biases, "weight_decay": 0, "max_epochs": 300, "random_state": 0}
    model = MatrixCompletion(**settings).fit([2], [3], [value], shape=(5, 6))
    assert model.predict(2, 3) == pytest.approx(value, rel=1e-3) and model.left_.shape == (5, 6)


# ---- columns in different units --------------------------------------------------------------------------------------


def deviations(completed: np.ndarray, truth: np.ndarray, data: np.ndarray) -> float:
    """Root mean square error of what was missing, each column in its standard deviation."""
    return float(np.sqrt(np.mean((((completed - truth) / np.nanstd(data, 0))[np.isnan(data)]) ** 2)))


def kelvin_beside_others() -> np.ndarray:
    return 5 * np.random.default_rng(3).standard_normal((80, 5)) + np.array([300.0, 0, 0, 0, 1000])


TABLES = {
    "breast cancer": lambda: load_breast_cancer().data,
    "wine": lambda: load_wine().data,
    "diabetes": lambda: load_diabetes(scaled=False).data,
    "other offsets alone": kelvin_beside_others,
    "a low-rank matrix in many units": lambda: low_rank(60, 40, 3) * np.geomspace(1e-6, 1e6, 40),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_different_units_is_completed_at_least_as_well_as_by_the_means_of_its_columns(name):
    truth = TABLES[name]()
    data = with_missing(truth, 0.2)
    model = MatrixCompletion(random_state=0).fit(data)
    by_means = deviations(np.broadcast_to(np.nanmean(data, 0), data.shape), truth, data)
    found = deviations(model.complete(), truth, data)
    # Independent columns have nothing to learn from each other, and a tenth is lost to chance.
    assert found <= (1.1 if name == "other offsets alone" else 0.95) * by_means
    one_unit = MatrixCompletion(column_scales=False, random_state=0).fit(data).complete()
    assert deviations(one_unit, truth, data) > 1.3 * found, "without their units"


def test_units_of_the_columns_change_predictions_by_those_units_alone():
    data, units, shifts = with_missing(low_rank() + 2), np.geomspace(1e-3, 1e4, 20), np.linspace(-50, 9000, 20)
    settings = {**QUICK, "column_scales": True, "dtype": "float64"}
    one = MatrixCompletion(**settings).fit(data).complete()
    other = MatrixCompletion(**settings).fit(data * units + shifts).complete()
    # Rounding of the data (eps * 9e3 / 1e-3) passes through the steps of Adam, each of which divides by gradients.
    assert np.abs((other - shifts) / units - one).max() <= 1e-4


def test_exact_low_rank_in_many_units_is_recovered_without_biases():
    truth = low_rank(60, 40, 2) * np.geomspace(1e-4, 1e4, 40)
    data = with_missing(truth, 0.4)
    model = MatrixCompletion(rank=8, biases=False, weight_decay=0, max_epochs=600, random_state=0).fit(data)
    assert deviations(model.complete(), truth, data) <= 0.05
    assert model.mean_ == 0 and not model.column_bias_.any() and not model.row_bias_.any()


def test_predictions_with_scales_are_the_formula_of_the_fitted_attributes_also_after_saving(tmp_path):
    data = with_missing(TABLES["wine"](), 0.2)
    data[3], data[:, 2], data[4:, 5] = np.nan, np.nan, np.nan  # the last one has a few entries
    model = MatrixCompletion(max_epochs=20, random_state=0).fit(data)
    biases = model.row_bias_[:, None] * model.column_scale_ + model.column_bias_
    formula = model.mean_ + biases + model.left_ @ model.right_.T
    completed = model.complete()
    assert np.allclose(completed, formula, rtol=1e-12)
    assert np.allclose(model.predict(*np.indices(data.shape)), formula, rtol=1e-12)
    assert np.allclose(completed[3], model.mean_ + model.column_bias_, rtol=1e-12)
    assert (completed[:, 2] == model.mean_).all(), "its unit is unknown"
    model.save(tmp_path / "model")
    assert np.array_equal(MatrixCompletion.load(tmp_path / "model").complete(), completed)


def test_columns_of_equal_values_beside_others_keep_their_value():
    data = with_missing(np.c_[np.full((40, 2), [0.25, 7e5]), np.random.default_rng(0).standard_normal((40, 3))], 0.3)
    for table in (data, data[:, :2]):
        completed = MatrixCompletion(random_state=0).fit(table).complete()
        assert np.allclose(completed[:, :2], [0.25, 7e5], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_ratings_and_matrices_of_one_unit_are_not_scaled(seed):
    cases = [ratings(seed=seed), ratings(100, 60, seed=seed), with_missing(low_rank(60, 40, 4, seed))]
    sparse = with_missing(np.round(np.clip(ratings(300, 200, seed=seed), 1, 5)), 0.95, seed)
    for data in [*cases, sparse, np.full((5, 4), 3.0), ratings()[:, :1]]:
        model = MatrixCompletion(rank=2, max_epochs=1, random_state=0).fit(data)
        assert (model.column_scale_ == 1).all()


def test_the_scale_of_a_column_is_its_deviation_around_its_mean_and_without_biases_its_root_mean_square():
    data = with_missing(TABLES["wine"]())
    entries = matrix_entries(data).entries
    offset, unit = column_units(entries, True, "auto")
    assert np.allclose(offset, np.nanmean(data, 0), rtol=1e-12) and np.allclose(unit, np.nanstd(data, 0), rtol=1e-9)
    offset, unit = column_units(entries, False, "auto")
    assert not offset.any() and np.allclose(unit, np.sqrt(np.nanmean(data**2, 0)), rtol=1e-12)
    for biases in ("rows", "global"):
        assert (column_units(entries, biases, "auto").unit == 1).all()


# ---- warm starts -----------------------------------------------------------------------------------------------------

TRUTH = low_rank(60, 40, 3)
OTHER_DATA = {
    "another unit": TRUTH * 1000 + 5e5,
    "a tiny unit": TRUTH * 1e-6,
    "higher": TRUTH + 100,
    "turned around": -5 * TRUTH - 3,
    "another matrix": low_rank(60, 40, 3, seed=9),
    "a unit for each column": TRUTH * np.geomspace(1e-3, 1e3, 40),
}


@pytest.mark.parametrize("name", OTHER_DATA)
@pytest.mark.parametrize("settings", [{}, {"biases": False}, {"implicit_feedback": True}])
def test_a_warm_start_fits_new_data_as_well_as_a_new_start(name, settings):
    new = with_missing(OTHER_DATA[name], 0.5)
    settings = {"rank": 6, "max_epochs": 60, "random_state": 0, **settings}
    cold = MatrixCompletion(**settings).fit(new)
    warm = MatrixCompletion(warm_start=True, **settings).fit(with_missing(TRUTH, 0.5)).fit(new)
    assert -warm.score(new) <= -1.2 * cold.score(new)


@pytest.mark.parametrize("first", [np.zeros((60, 40)), np.full((60, 40), 3.0)])
@pytest.mark.parametrize("biases", [True, False])
def test_a_warm_start_after_data_without_structure_learns_and_one_before_them_forgets(first, biases):
    settings = {"rank": 6, "random_state": 0, "biases": biases}
    structured = with_missing(TRUTH, 0.5)
    cold = MatrixCompletion(**settings).fit(structured)
    warm = MatrixCompletion(warm_start=True, **settings).fit(first).fit(structured)
    assert -warm.score(structured) <= -1.3 * cold.score(structured)
    if biases:
        back = warm.fit(first).complete()
        assert np.abs(back - first).max() <= 1e-9


def test_a_warm_start_keeps_what_was_learned_of_the_rows_that_are_in_both_data():
    first, both = with_missing(TRUTH, 0.4), with_missing(TRUTH, 0.4)
    first[40:], first[:, 30:] = np.nan, np.nan
    settings = {"rank": 6, "weight_decay": 0.0, "random_state": 0, "warm_start": True}
    model = MatrixCompletion(max_epochs=400, **settings).fit(first)
    known = with_missing(TRUTH, 0.0)
    known[40:], known[:, 30:] = np.nan, np.nan
    assert model.score(known) >= -0.1 * np.nanstd(known)
    model.set_params(max_epochs=1).fit(both)
    assert model.score(known) >= -0.2 * np.nanstd(known), "a new start would have learned next to nothing"
    model.set_params(max_epochs=400).fit(both)
    cold = MatrixCompletion(rank=6, weight_decay=0.0, max_epochs=400, random_state=0).fit(both)
    assert model.score(TRUTH) >= 1.5 * cold.score(TRUTH), "rows 40 to 59 and columns 30 to 39 are learned, too"


def test_a_warm_start_in_rows_that_no_entry_shares_learns_them():
    rows, cols, values = triplets(with_missing(TRUTH, 0.4))
    model = MatrixCompletion(rank=6, weight_decay=0.1, random_state=0, warm_start=True, max_epochs=200)
    model.fit(rows, cols, values, shape=(120, 80)).fit(rows + 60, cols + 40, values, shape=(120, 80))
    assert model.score(rows + 60, cols + 40, values) >= -0.5 * values.std()
