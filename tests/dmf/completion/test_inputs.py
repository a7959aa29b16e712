"""Whatever cannot be completed is refused, with what came, what is needed and what to do."""

from __future__ import annotations

import warnings

import numpy as np
import pandas
import pytest
from scipy.sparse import coo_matrix, csr_matrix

pytest.importorskip("sklearn")

from sklearn.exceptions import NotFittedError

from dmf import MatrixCompletion
from dmf.completion.settings import RULES
from tests.dmf.completion.cases import low_rank, ratings, triplets
from tests.fresh_process import run_python

ROWS, COLS, VALUES = triplets(ratings())
NAN = float("nan")


def model(**settings) -> MatrixCompletion:
    return MatrixCompletion(**{"rank": 4, "max_epochs": 2, "random_state": 0, **settings})


BAD_DATA = {
    "the same entry twice": (
        ([0, 1, 0], [2, 1, 2], [1.0, 2.0, 3.0]),
        r"more than once, the first is \(0, 2\); keep one",
    ),
    "the same stored entry twice": (
        (coo_matrix(([1.0, 2.0], ([0, 0], [1, 1])), shape=(4, 4)),),
        r"more than once, the first is \(0, 1\)",
    ),
    "a negative row": (
        ([-1, 0], [0, 1], [1.0, 2.0]),
        "rows range from -1 to 0, and numbers count from 0; a missing id is often -1",
    ),
    "float rows": (
        ([0.0, 1.0], [0, 1], [1.0, 2.0]),
        "rows must be integers or .* float64; convert whole floats with",
    ),
    "a missing name": ((["a", None], [0, 1], [1.0, 2.0]), "rows must be integers or text, all of one kind, got None"),
    "a missing name that is NaN": ((["a", NAN], [0, 1], [1.0, 2.0]), "rows must be integers or text, .* got nan among"),
    "names of two kinds": (
        ([0, 1], ["a", 5], [1.0, 2.0]),
        "cols must be integers or text, all of one kind, got 5 among them; leave out entries without an id",
    ),
    "unequal lengths": (
        ([0, 1], [0, 1], [1.0]),
        r"must be vectors of equal length, got shapes \(2,\), \(2,\) and \(1,\)",
    ),
    "matrices as triplets": (
        (np.zeros((2, 2), int), np.zeros((2, 2), int), np.zeros((2, 2))),
        "vectors of equal length",
    ),
    "no entries": (([], [], []), "no entries are observed"),
    "NaN among the values": (([0, 1], [0, 1], [1.0, NAN]), "1 of 2 values are NaN or infinite"),
    "infinity among the values": (([0, 1], [0, 1], [np.inf, 1.0]), "1 of 2 values are NaN or infinite"),
    "words as values": (([0, 1], [0, 1], ["one", "two"]), "values must be real numbers, got .*astype"),
    "complex values": (
        ([0, 1], [0, 1], [1j, 2.0]),
        r"values must be real numbers, got complex128; convert them with `\.astype\(float\)`",
    ),
    "only NaN": ((np.full((5, 4), NAN),), r"all 20 entries are missing \(NaN\)"),
    "infinity in a matrix": ((np.where(np.isnan(ratings()), np.inf, ratings()),), "infinity"),
    "a stored NaN": ((coo_matrix(([1.0, NAN], ([0, 1], [1, 0])), shape=(4, 4)),), "NaN or infinite"),
    "an empty sparse matrix": ((csr_matrix((5, 4)),), "no entries are observed"),
    "a vector as matrix": ((np.zeros(5),), "Expected 2D array, got 1D array"),
    "no rows at all": ((np.zeros((0, 3)),), r"0 sample\(s\)"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_are_refused(name):
    arguments, message = BAD_DATA[name]
    with pytest.raises(ValueError, match=message):
        model().fit(*arguments)


BAD_SHAPES = {
    "too few rows": (
        {"shape": (2, 20)},
        "rows range from 0 to 29, but .* 2 x 20 has rows 0 to 1; number them from 0, or pass a",
    ),
    "too few columns": ({"shape": (30, 3)}, "cols range from 0 to 19"),
    "three numbers": (
        {"shape": (30, 20, 1)},
        r"shape must be \(number of rows, number of columns\), got \(30, 20, 1\)",
    ),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_bad_shapes_are_refused(name):
    options, message = BAD_SHAPES[name]
    with pytest.raises(ValueError, match=message):
        model().fit(ROWS, COLS, VALUES, **options)


def test_a_shape_beside_a_matrix_is_refused():
    with pytest.raises(ValueError, match=r"shape=\(30, 20\) is for triplets only; a matrix X has its own shape"):
        model().fit(ratings(), shape=(30, 20))


BAD_SETTINGS = {
    "rank": [3, 0, -2, 2.0, True, "4"],
    "depth": [0, 1.5],
    "init_scale": [0, -1, np.inf, NAN],
    "gamma": [-0.1, NAN],
    "biases": ["all", None, 1.0],
    "column_scales": ["yes", None, 1.0],
    "bias_decay": [-1, "1"],
    "feedback_decay": [-1],
    "weight_decay": [-1, NAN],
    "learning_rate": [0, -1, None],
    "batch_size": [0, 2.5],
    "max_epochs": [0, 1.5],
    "validation_fraction": [-0.1, 1, 1.5],
    "patience": [0],
    "clip": [(5, 1), (1, 2, 3), None],
    "checkpoint_every": [0],
    "dtype": ["float16", np.float32],
}


def test_every_rule_has_a_bad_value():
    assert BAD_SETTINGS.keys() == RULES.keys()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_SETTINGS.items() for value in values]
)
def test_settings_out_of_range_are_refused_before_the_data_are_touched(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, got "):
        model(**{name: value}).fit("no data at all")


@pytest.mark.parametrize(("shape", "rank"), [((30, 5), 10), ((5, 4), 4), ((1, 6), 2), ((1, 1), 2), ((40, 30), 20)])
def test_a_rank_beyond_the_matrix_is_the_largest_possible(shape, rank):
    whole = np.random.default_rng(0).standard_normal(shape)
    fitted = MatrixCompletion(random_state=0).fit(whole)
    assert fitted.left_.shape == (shape[0], rank) and fitted.right_.shape == (shape[1], rank)
    if rank >= min(shape):  # then it is enough for any matrix
        settings = {"biases": False, "weight_decay": 0, "max_epochs": 500, "dtype": "float64", "random_state": 0}
        assert np.abs(MatrixCompletion(**settings).fit(whole).complete() - whole).max() <= 0.05


def test_implicit_feedback_in_mini_batches_is_refused():
    text = "needs all entries in one step, got batch_size=10: each row's factor sums over all its entries"
    with pytest.raises(ValueError, match=text):
        model(implicit_feedback=True, batch_size=10).fit(ratings())


@pytest.mark.parametrize("biases", ["rows", "global"])
def test_scales_of_columns_with_one_mean_for_all_are_refused(biases):
    text = f"column_scales=True with biases='{biases}' would subtract one mean from columns in different units; use"
    with pytest.raises(ValueError, match=text):
        model(column_scales=True, biases=biases).fit(ratings())


def test_a_shape_that_the_entries_cannot_fill_is_refused_and_ids_that_no_index_reaches():
    text = r"observed entries is nearly all empty, and each row and column takes memory; number .*numpy\.unique"
    with pytest.raises(ValueError, match=text):
        model().fit(ROWS + 76_561_198_000_000_000, COLS, VALUES, shape=(10**17, 10**17))
    with pytest.raises(ValueError, match="rows go up to 18446744073709551615, beyond 64-bit integers; pass them as"):
        model().fit(np.array([0, 2**64 - 1], np.uint64), [0, 1], [1.0, 2.0])


BAD_PAIRS = {
    "a missing name": ([["a", 0], [NAN, 1]], "the rows in X must be integers or text, .* got nan among them"),
    "whole floats": (np.array([[0.0, 1.0], [2.0, 3.0]]), r"the rows in X must be integers .*got float64; .*astype"),
    "the same pair twice": (np.array([[0, 1], [0, 1]]), r"more than once, the first is \(0, 1\)"),
    "too few values": (np.array([[0, 1], [0, 2], [1, 1]]), "vectors of equal length"),
    "a negative row": (np.array([[-1, 1], [0, 2]]), "rows range from -1"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_two_columns_of_ids_that_cannot_be_used_are_refused_and_not_taken_for_the_matrix(name):
    pairs, message = BAD_PAIRS[name]
    with pytest.raises(ValueError, match=message):
        model().fit(pairs, [4.0, 5.0])


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_validation_part_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(
        ValueError, match=f"validation_fraction={fraction} of .* leaves nothing to validate on or nothing to train"
    ):
        model(validation_fraction=fraction).fit(ratings())


def test_nothing_is_predicted_before_fit():
    for call in (
        lambda m: m.predict(0, 0),
        lambda m: m.complete(),
        lambda m: m.score(ratings()),
        lambda m: m.save("x"),
    ):
        with pytest.raises(NotFittedError):
            call(model())


def test_predictions_of_no_entry_are_refused():
    fitted = model().fit(ratings())
    with pytest.raises(ValueError, match="cols range from -1"):
        fitted.predict(0, [-1])
    with pytest.raises(
        ValueError, match=r"rows of shape \(2,\) and cols of shape \(3,\) do not broadcast; pass one row"
    ):
        fitted.predict([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match=r"takes rows and cols, or two columns of ids, got X of shape \(30, 20\)"):
        fitted.predict(ratings())


def test_integer_and_boolean_values_and_lists_are_taken():
    assert model().fit([0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 4]).complete().shape == (4, 4)
    assert model().fit([0, 1, 2, 3], [0, 1, 2, 3], [True, False, True, True]).complete().dtype == np.float64


def test_the_rest_of_dmf_needs_none_of_the_extra_packages():
    told = run_python(
        """
        import sys
        for name in ("sklearn", "scipy", "tqdm"):
            sys.modules[name] = None
        import dmf
        dmf.CompressedDMF(4, 3, rank=2)()
        try:
            dmf.MatrixCompletion
        except ImportError as error:
            print(error)
        try:
            dmf.Missing
        except AttributeError as error:
            print(error)
        """
    )
    assert "MatrixCompletion needs the package" in told and 'pip install "deep-lora[completion]"' in told
    assert "module 'dmf' has no attribute 'Missing'" in told


LISTED = np.stack([ROWS, COLS, np.ones(len(ROWS))], axis=1)
TIMED = np.concatenate([LISTED, np.full((len(ROWS), 1), 8.8e8)], axis=1)  # as the file of MovieLens-100K
WORDS = pandas.DataFrame({"user": ["ann", "bob"], "film": ["Alien", "Brazil"], "stars": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ((LISTED,), r"X has 3 columns.*the first two hold whole numbers.*pass them one by one: fit\(X\[:, 0\], X"),
        ((TIMED,), "X has 4 columns, nothing is missing, and the first two hold whole numbers"),
        ((np.diag(np.arange(8.0) + 1),), "88% of X is zero and nothing is missing, so zeros count as observed"),
        ((ROWS, COLS, np.ones(len(ROWS))), "observed values are 1, so every prediction is, and recommendations"),
    ],
)
def test_data_that_are_probably_something_else_are_warned_of(data, text) -> None:
    with pytest.warns(UserWarning, match=text):
        model().fit(*data)


def test_a_usual_matrix_and_usual_triplets_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = model().fit(ROWS, COLS, VALUES)
        model().fit(ratings())
        model().fit(low_rank(20, 3))
        model().fit(np.eye(8))  # choices, 1 and 0
        fitted.predict([0, 99], [99, 0])


def test_predictions_for_swapped_ids_are_warned_of() -> None:
    fitted = model().fit(["ann", "ann", "bob"], ["Alien", "Brazil", "Alien"], [5, 1, 4])
    with pytest.warns(UserWarning, match="none of these rows and none of these columns was in the fit"):
        fitted.predict(["Alien", "Brazil"], ["ann", "bob"])


def test_text_in_a_matrix_and_columns_in_different_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="X alone is read .*'ann'.*; pass ids and values one by one, such as"):
        model().fit(WORDS)
    with pytest.raises(ValueError, match="have the same index in different orders, and entries are paired by position"):
        model().fit(WORDS["user"], WORDS["film"], WORDS["stars"][::-1])
    with pytest.raises(ValueError, match="have the same index in different orders"):
        model().fit(WORDS["user"], WORDS["film"], WORDS["stars"], sample_weight=WORDS["stars"][::-1])
    by_position = model().fit(WORDS["user"][::-1], WORDS["film"][::-1], WORDS["stars"][::-1].to_numpy())
    assert by_position.column_ids_.tolist() == ["Alien", "Brazil"]


def test_items_that_are_like_several_are_asked_for_one_by_one() -> None:
    with pytest.raises(ValueError, match=r"item must be one id, got \[1, 2\]; call this once for each item"):
        model().fit(ROWS, COLS, VALUES).similar_items([1, 2])
