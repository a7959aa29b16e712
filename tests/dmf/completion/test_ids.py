"""Rows and columns may be called anything; what is not known is answered by what is known without it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

import pandas
from sklearn.model_selection import KFold, cross_val_score

from dmf import MatrixCompletion
from tests.dmf.completion.cases import ratings, triplets

QUICK = {"rank": 4, "max_epochs": 10, "random_state": 0}
ROWS, COLS, VALUES = triplets(ratings())
USERS = np.array([f"user {number:02}" for number in range(30)])
FILMS = np.array([f"film {number:02}" for number in range(20)])
STEAM = 76_561_198_000_000_000


@pytest.fixture(scope="module")
def by_number() -> MatrixCompletion:
    return MatrixCompletion(**QUICK).fit(ROWS, COLS, VALUES)


def named(**settings) -> MatrixCompletion:
    return MatrixCompletion(**{**QUICK, **settings}).fit(USERS[ROWS], FILMS[COLS], VALUES)


KINDS = {
    "text": (USERS[ROWS], FILMS[COLS]),
    "lists": (USERS[ROWS].tolist(), FILMS[COLS].tolist()),
    "columns of a table": (pandas.Series(USERS[ROWS]), pandas.Series(FILMS[COLS]).astype("category")),
    "integers as objects": (ROWS.astype(object), COLS.astype(object)),
    "ids of a database": (ROWS + STEAM, COLS * 10**15),
    "one side alone": (USERS[ROWS], COLS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_names_change_nothing_but_the_names(kind, by_number):
    rows, cols = KINDS[kind]
    model = MatrixCompletion(**QUICK).fit(rows, cols, VALUES)
    assert np.array_equal(model.complete(), by_number.complete())
    assert np.array_equal(model.predict(rows, cols), by_number.predict(ROWS, COLS))
    assert model.score(rows, cols, VALUES) == by_number.score(ROWS, COLS, VALUES)


def test_pairs_of_names_work_as_pairs_of_numbers_do(by_number):
    table = pandas.DataFrame({"user": USERS[ROWS], "film": COLS})  # text beside integers
    model = MatrixCompletion(**QUICK).fit(table, VALUES)
    assert np.array_equal(model.complete(), by_number.complete())
    for pairs in (table, table.to_numpy().tolist()):
        assert np.array_equal(model.predict(pairs), by_number.predict(ROWS, COLS))
    scores = cross_val_score(model, table, VALUES, cv=KFold(3, shuffle=True, random_state=0), error_score="raise")
    assert scores.min() > -2 * VALUES.std()


def test_the_ids_are_told_in_the_order_of_the_attributes(by_number):
    model = named()
    assert np.array_equal(model.row_ids_, USERS) and np.array_equal(model.column_ids_, FILMS)
    shuffled = np.random.default_rng(0).permutation(30)  # of names that sort otherwise
    other = MatrixCompletion(**QUICK).fit(USERS[shuffled][ROWS], FILMS[COLS], VALUES)
    place = {name: number for number, name in enumerate(other.row_ids_)}
    expected = other.complete()[[place[name] for name in USERS[shuffled]]]
    assert np.allclose(expected, other.predict(USERS[shuffled][:, None], FILMS), rtol=1e-12)
    assert by_number.row_ids_ is None and by_number.column_ids_ is None


@pytest.mark.parametrize("user", ["nobody", 999, STEAM])
def test_an_id_that_is_not_known_gets_the_mean_and_the_bias_of_the_other_side(user, by_number):
    model = named() if user == "nobody" else by_number
    film, known = ("film 03", "user 04") if user == "nobody" else (3, 4)
    assert model.predict(user, film) == model.mean_ + model.column_bias_[3]
    assert model.predict(known, user) == model.mean_ + model.row_bias_[4]
    assert model.predict(user, user) == model.mean_
    error = model.mean_ + model.column_bias_[3] - 5.0
    assert model.score([user], [film], [5.0]) == pytest.approx(-abs(error), rel=1e-12)


def test_names_are_saved(tmp_path):
    of_database = MatrixCompletion(**QUICK).fit(ROWS + STEAM, COLS, VALUES)
    for model, ids in ((named(), (USERS[:3], FILMS[:3])), (of_database, (STEAM + np.arange(3), np.arange(3)))):
        model.save(tmp_path / "model")
        loaded = MatrixCompletion.load(tmp_path / "model")
        assert np.array_equal(loaded.predict(*ids), model.predict(*ids))
        assert np.array_equal(loaded.row_ids_, model.row_ids_) and loaded.row_ids_.dtype == model.row_ids_.dtype


def test_a_warm_start_knows_the_names_and_takes_new_ones():
    settings = {"warm_start": True, "weight_decay": 0.1}
    model = named(**settings)
    before = model.score(USERS[ROWS], FILMS[COLS], VALUES)
    order = np.random.default_rng(1).permutation(len(ROWS))
    rows, cols = np.append(USERS[ROWS][order], "adam"), np.append(FILMS[COLS][order], "a film")
    model.fit(rows, cols, np.append(VALUES[order], 4.0))
    assert model.row_ids_.tolist() == [*USERS, "adam"], "a name keeps its number, though another is before it"
    assert model.score(USERS[ROWS], FILMS[COLS], VALUES) > before
    assert model.history_[0]["training_rmse"] < 1.1 * -before, "it starts where the other stopped"


@pytest.mark.parametrize(
    ("fitted", "asked", "text"),
    [
        (
            (USERS[ROWS], COLS),
            ([0], [0]),
            "rows are integers, and those that the model was fitted to are text; pass",
        ),
        ((ROWS, COLS), (["a"], [0]), "rows are text, and those that the model was fitted to are integers"),
    ],
)
def test_ids_of_another_kind_are_refused(fitted, asked, text):
    model = MatrixCompletion(**QUICK).fit(*fitted, VALUES)
    for call in (model.predict, lambda *ids: model.score(*ids, [1.0]), lambda *ids: model.fold_in(*ids, [1.0])):
        with pytest.raises(ValueError, match=text):
            call(*asked)


def test_a_shape_beside_names_is_refused():
    with pytest.raises(ValueError, match="shape is for numbers, and the rows are text; leave it out: the ids say how"):
        MatrixCompletion(**QUICK).fit(USERS[ROWS], COLS, VALUES, shape=(30, 20))


def test_a_matrix_after_a_fit_to_names_is_in_their_order_and_no_warm_start():
    model = MatrixCompletion(**QUICK, warm_start=True).fit(ROWS + STEAM, COLS, VALUES)
    assert model.score(ratings()) == pytest.approx(model.score(ROWS + STEAM, COLS, VALUES), rel=1e-12)
    text = (
        "continues with the earlier model, and only one of it and these data has names for its rows and columns; pass"
    )
    for data, options in (((ratings(),), {}), ((ROWS, COLS, VALUES), {"shape": (30, 20)})):
        with pytest.raises(ValueError, match=text):
            model.fit(*data, **options)
    model.partial_fit(ratings())
    assert np.array_equal(model.row_ids_, STEAM + np.arange(30))


def test_columns_and_values_may_be_the_same_array():
    stars = np.array([0, 1, 2, 1])
    assert MatrixCompletion(**QUICK).fit([0, 1, 2, 3], stars, stars).n_features_in_ == 3


def test_labels_of_a_table_are_its_ids():
    table = pandas.DataFrame(ratings(), index=np.arange(30) + 1, columns=FILMS)  # users from 1, as in MovieLens
    model, by_position = MatrixCompletion(**QUICK).fit(table), MatrixCompletion(**QUICK).fit(ratings())
    assert np.array_equal(model.complete(), by_position.complete())
    for user in (1, 30):
        found, expected = model.recommend(user, 3), by_position.recommend(user - 1, 3)
        assert found.items.tolist() == FILMS[expected.items].tolist()
        assert np.array_equal(model.predict(user, FILMS), by_position.predict(user - 1, range(20)))
    assert model.score(table) == by_position.score(ratings())
    assert np.array_equal(model.transform(table[:3]), by_position.transform(ratings()[:3]))


@pytest.mark.parametrize(
    "table",
    [
        pandas.DataFrame(ratings()),
        pandas.DataFrame(ratings(), index=[0] * 30),
        pandas.DataFrame(ratings(), index=pandas.date_range("2026-01-01", periods=30)),
        pandas.DataFrame(ratings(), index=np.arange(30) / 2),
    ],
)
def test_labels_that_count_from_0_or_cannot_be_ids_name_nothing(table):
    model = MatrixCompletion(**QUICK).fit(table)
    assert model.row_ids_ is None and model.column_ids_ is None


def test_a_table_in_another_order_than_the_fitted_one_is_refused():
    table = pandas.DataFrame(ratings(), index=np.arange(30) + 1, columns=np.arange(20) + 5)
    model = MatrixCompletion(**QUICK).fit(table)
    for call, other in (
        (model.score, table[::-1]),
        (model.partial_fit, table[::-1]),
        (model.transform, table.iloc[:, ::-1]),
    ):
        with pytest.raises(ValueError, match="have other labels than those of the fit, or another order, and they are"):
            call(other)
    warm = MatrixCompletion(**QUICK, warm_start=True).fit(table)
    with pytest.raises(ValueError, match="the rows of X have other labels"):
        warm.fit(table[::-1])


def test_an_entry_that_is_given_twice_is_named_by_its_ids() -> None:
    with pytest.raises(ValueError, match=r"the first is \(bob, Alien\); keep one") as caught:
        MatrixCompletion(**QUICK).fit(["bob", "ann", "bob"], ["Alien", "Brazil", "Alien"], [1.0, 2.0, 3.0])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
