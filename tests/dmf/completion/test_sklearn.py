"""`MatrixCompletion` behaves like an estimator of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

import pandas
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from dmf import MatrixCompletion
from tests.dmf.completion.cases import ratings, triplets

SMALL = {"rank": 2, "max_epochs": 5}  # the checks use matrices of one column and of one row, too
REASON = "predict takes the indices of entries, predict(rows, cols), and the check calls predict(X)"
NOT_APPLICABLE = dict.fromkeys(
    (
        "check_dict_unchanged",
        "check_dtype_object",
        "check_estimator_sparse_array",
        "check_estimator_sparse_matrix",
        "check_estimators_dtypes",
        "check_estimators_pickle",
        "check_f_contiguous_array_estimator",
        "check_fit2d_predict1d",
        "check_fit_idempotent",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_n_features_in_after_fitting",
        "check_sample_weight_equivalence_on_dense_data",
        "check_sample_weight_equivalence_on_sparse_data",
    ),
    REASON,
)
PAIRS = dict.fromkeys(
    ("check_sample_weights_not_overwritten", "check_sample_weights_shape"),
    "two columns of integers beside y are the rows and columns of entries, and the check repeats them",
)


class WithoutPredict(MatrixCompletion):
    """The same estimator for the checks that would call predict(X): they then check everything else."""

    @property
    def predict(self):
        raise AttributeError(REASON)

    def score(self, X, y=None, values=None):
        shown = MatrixCompletion(**self.get_params())
        vars(shown).update(vars(self))
        return shown.score(X, y, values)


def test_all_applicable_estimator_checks_pass():
    results = check_estimator(
        MatrixCompletion(**SMALL), on_skip=None, on_fail="raise", expected_failed_checks=NOT_APPLICABLE | PAIRS
    )
    failed = {result["check_name"] for result in results if result["status"] == "xfail"}
    assert failed == (NOT_APPLICABLE | PAIRS).keys(), "the list must not name a check that passes"
    assert sum(result["status"] == "passed" for result in results) >= 20


@pytest.mark.parametrize("name", sorted(NOT_APPLICABLE))
def test_what_those_checks_say_about_everything_but_predict_holds(name):
    checks = [
        (estimator, check)
        for estimator, check in estimator_checks_generator(WithoutPredict(**SMALL))
        if check.func.__name__ == name
    ]
    assert checks
    for estimator, check in checks:
        check(clone(estimator))


def test_parameters_are_read_set_and_cloned():
    model = MatrixCompletion(rank=6, weight_decay=0.3, biases="rows")
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(rank=8).rank == 8
    assert "weight_decay=0.3" in repr(model)


def test_the_estimator_works_in_a_search_over_its_own_validation_score():
    scores = {
        decay: MatrixCompletion(rank=4, weight_decay=decay, validation_fraction=0.2, random_state=0)
        .fit(ratings(noise=0.1))
        .validation_score_
        for decay in (0.2, 50.0)
    }
    assert scores[0.2] > scores[50.0] + 0.1


def test_fit_leaves_the_global_random_state_alone():
    import torch

    np.random.seed(3), torch.manual_seed(3)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(3), torch.manual_seed(3)
    MatrixCompletion(rank=4, max_epochs=3, random_state=0, batch_size=50, validation_fraction=0.1).fit(ratings())
    assert (np.random.rand(), torch.rand(1)) == expected


def test_a_search_over_triplets_finds_the_setting_and_one_over_a_matrix_says_why_it_cannot():
    matrix = ratings(noise=0.1)
    rows, cols, values = triplets(matrix)
    decays = {"weight_decay": [0.5, 50.0]}
    with sklearn.config_context(enable_metadata_routing=True):
        model = MatrixCompletion(rank=4, random_state=0)
        model.set_fit_request(values=True, shape=True).set_score_request(values=True)
        search = GridSearchCV(model, decays, cv=KFold(3, shuffle=True, random_state=0))
        search.fit(rows, cols, values=values, shape=matrix.shape)
    assert search.best_params_ == {"weight_decay": 0.5} and search.best_score_ > -0.9 * values.std()
    with pytest.raises(
        ValueError,
        match=r"matrix of shape \(20, 20\), and X has shape \(10, 20\), so its rows are unknown; pass NaN where",
    ):
        GridSearchCV(MatrixCompletion(**SMALL), decays, cv=3, error_score="raise").fit(matrix)


def test_a_refit_that_is_refused_leaves_what_is_known_of_the_data_and_one_to_triplets_forgets_the_names():
    frame = pandas.DataFrame(ratings()).add_prefix("film ")
    model = MatrixCompletion(rank=4, max_epochs=3, random_state=0).fit(frame)
    before = model.score(frame)
    with pytest.raises(ValueError, match="leaves nothing to validate on"):
        model.set_params(validation_fraction=1e-9).fit(frame.iloc[:3, :3])
    model.set_params(validation_fraction=0.0)
    assert model.n_features_in_ == 20 and len(model.feature_names_in_) == 20 and model.score(frame) == before
    model.fit(*triplets(ratings(columns=12)[:, :12]))
    assert model.n_features_in_ == 12 and not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize(
    "table", [np.asarray, pandas.DataFrame, lambda pairs: [tuple(pair) for pair in pairs.tolist()]]
)
def test_pairs_of_ids_with_their_values_are_the_same_as_triplets(table):
    rows, cols, values = triplets(ratings())
    pairs = table(np.c_[rows, cols])
    model = MatrixCompletion(rank=4, max_epochs=5, random_state=0)
    expected = clone(model).fit(rows, cols, values)
    assert model.fit(pairs, values) is model and np.array_equal(model.complete(), expected.complete())
    assert np.array_equal(model.predict(pairs), expected.predict(rows, cols)) and model.n_features_in_ == 2
    assert model.score(pairs, values) == expected.score(rows, cols, values)
    assert model.fit(pairs, values, shape=(50, 20)).complete().shape == (50, 20)


def test_a_table_of_two_columns_without_values_is_the_matrix_and_so_is_one_beside_labels():
    table = np.random.default_rng(0).standard_normal((30, 2))
    for y in (None, np.arange(30)):
        assert MatrixCompletion(max_epochs=2, random_state=0).fit(table, y).complete().shape == (30, 2)
    assert MatrixCompletion(max_epochs=2, random_state=0).fit(np.arange(8).reshape(4, 2)).complete().shape == (4, 2)


@pytest.mark.parametrize("scoring", [None, "neg_root_mean_squared_error"])
def test_cross_validation_over_pairs_scores_entries_of_rows_that_a_fold_lacks_by_what_is_known(scoring):
    rows, cols, values = triplets(ratings(noise=0.1))
    pairs = np.r_[np.c_[rows, cols], [[70, 3], [4, 55]]]  # a row and a column with a single entry each
    values = np.r_[values, [3.0, 4.0]]
    model = MatrixCompletion(rank=4, weight_decay=0.3, random_state=0)
    scores = cross_val_score(
        model, pairs, values, cv=KFold(5, shuffle=True, random_state=0), scoring=scoring, error_score="raise"
    )
    assert scores.min() > -values.std()
    model.fit(pairs[:-2], values[:-2])
    known = model.mean_ + np.array([model.column_bias_[3], model.row_bias_[4]])
    assert np.allclose(model.predict(pairs[-2:]), known, rtol=1e-14)
    assert len(cross_val_predict(model, pairs, values, cv=3)) == len(values)
