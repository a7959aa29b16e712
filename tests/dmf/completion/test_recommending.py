"""What `recommend` and `similar_items` return: against the completed matrix, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.exceptions import NotFittedError

from dmf import MatrixCompletion
from dmf.completion import answers
from tests.dmf.completion.cases import ratings, triplets

DATA = ratings()
ROWS, COLS, VALUES = triplets(DATA)
FILMS = np.array([f"film {number:02}" for number in range(20)])


@pytest.fixture(scope="module")
def model() -> MatrixCompletion:
    return MatrixCompletion(rank=4, max_epochs=15, random_state=0).fit(DATA)


def best_of(scores: np.ndarray, allowed: np.ndarray, n: int) -> list[int]:
    return sorted(np.flatnonzero(allowed).tolist(), key=lambda column: -scores[column])[:n]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("block", [1, 2**23])
def test_the_highest_predictions_come_first_and_what_was_seen_is_left_out(model, exclude_seen, block, monkeypatch):
    monkeypatch.setattr(answers, "SCORES", block)
    completed = model.complete()
    found = model.recommend(np.arange(30), 4, exclude_seen=exclude_seen)
    assert found.items.shape == found.scores.shape == (30, 4)
    for user in range(30):
        allowed = np.isnan(DATA[user]) if exclude_seen else np.ones(20, bool)
        assert found.items[user].tolist() == best_of(completed[user], allowed, 4)
        assert np.allclose(found.scores[user], completed[user, found.items[user]], rtol=1e-12)
        alone = model.recommend(user, 4, exclude_seen=exclude_seen)
        assert np.array_equal(alone.items, found.items[user])


def test_a_user_who_is_not_known_gets_the_columns_with_the_highest_biases(model):
    expected = best_of(model.column_bias_, np.ones(20, bool), 5)
    assert model.recommend(999, 5).items.tolist() == expected
    assert model.recommend([3, 999], 5).items[1].tolist() == expected


def test_columns_without_observations_are_never_recommended():
    model = MatrixCompletion(rank=4, max_epochs=3, random_state=0).fit(ROWS, 2 * COLS, VALUES, shape=(30, 90))
    assert (model.recommend(0, 90, exclude_seen=False).items % 2 == 0).all()
    assert len(model.recommend(0, 90, exclude_seen=False).items) == 20


def test_entries_that_validation_held_out_were_seen_too():
    model = MatrixCompletion(rank=4, max_epochs=3, validation_fraction=0.4, random_state=0).fit(DATA)
    for user in range(30):
        assert np.isnan(DATA[user, model.recommend(user, 20).items]).all()


def test_names_go_in_and_come_out_also_after_saving(model, tmp_path):
    users = np.array([f"user {number:02}" for number in range(30)])
    named = MatrixCompletion(rank=4, max_epochs=15, random_state=0).fit(users[ROWS], FILMS[COLS], VALUES)
    named.save(tmp_path / "model")
    for each in (named, MatrixCompletion.load(tmp_path / "model")):
        assert each.recommend("user 03", 4).items.tolist() == FILMS[model.recommend(3, 4).items].tolist()
        assert each.similar_items("film 05", 3).items.tolist() == FILMS[model.similar_items(5, 3).items].tolist()


def test_scores_are_clipped_and_their_order_is_not(model):
    clipped = MatrixCompletion(rank=4, max_epochs=15, random_state=0, clip=(3, 3.1)).fit(DATA).recommend(0, 5)
    assert clipped.items.tolist() == model.recommend(0, 5).items.tolist() and set(clipped.scores) <= {3, 3.1}


def test_a_single_user_gets_what_is_left_and_several_are_told_who_has_too_few(model):
    left = int(np.isnan(DATA[0]).sum())
    assert len(model.recommend(0, 20).items) == left
    text = r"user \d+ has \d+ items left to recommend, and n is 20; ask for this user alone, .*, or pass a"
    with pytest.raises(ValueError, match=text):
        model.recommend([0, 1], 20)


def test_similar_columns_are_those_with_the_highest_cosines_in_the_completed_matrix_beyond_biases(model):
    beyond = model.left_ @ model.right_.T
    directions = beyond / np.linalg.norm(beyond, axis=0)
    cosines = directions.T @ directions
    for item in range(20):
        found = model.similar_items(item, 6)
        assert found.items.tolist() == best_of(cosines[item], np.arange(20) != item, 6)
        assert np.allclose(found.scores, cosines[item, found.items], atol=1e-10)


def test_similarities_do_not_depend_on_the_basis_of_the_factors(model):
    turned = MatrixCompletion().set_params(**model.get_params())
    vars(turned).update(vars(model))
    basis = np.random.default_rng(0).standard_normal((4, 4)) + 3 * np.eye(4)
    turned.left_, turned.right_ = model.left_ @ basis, model.right_ @ np.linalg.inv(basis).T
    assert np.allclose(turned.similar_items(2, 19).scores, model.similar_items(2, 19).scores, atol=1e-10)


def test_questions_without_an_answer_are_refused(model):
    for n in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"n must be an integer of at least 1, got {n!r}"):
            model.recommend(0, n)
        with pytest.raises(ValueError, match="n must be an integer of at least 1"):
            model.similar_items(0, n)
    for users in ([[0, 1]], []):
        with pytest.raises(ValueError, match="users must be one id or a list of them, got an array of shape"):
            model.recommend(users)
    with pytest.raises(ValueError, match=r"has no factors: it has no observations, or .*`fold_in` observations"):
        model.similar_items(99)
    for call in (MatrixCompletion().recommend, MatrixCompletion().similar_items):
        with pytest.raises(NotFittedError):
            call(0)
