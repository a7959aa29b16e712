"""The studies of recommenders and imputers: splits, scores and tables are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies import recommenders
from benchmarks.studies.imputation import hidden
from benchmarks.studies.ratings import Ratings


def made_up(seed: int = 0, users: int = 12, films: int = 15) -> Ratings:
    rng = np.random.default_rng(seed)
    rows, cols = np.nonzero(rng.random((users, films)) < 0.8)
    order = rng.permutation(len(rows))[:100]
    return Ratings(rows[order], cols[order], rng.integers(1, 6, len(order)).astype(float), (users, films))


def test_each_family_of_splits_tests_every_rating_once_and_the_first_is_in_the_order_of_the_file() -> None:
    ratings = made_up()
    found = recommenders.splits(ratings)
    assert list(found) == recommenders.NAMES
    for names in (recommenders.NAMES[:5], recommenders.NAMES[5:]):
        assert sorted(np.concatenate([found[name][1] for name in names]).tolist()) == list(range(100))
        assert all(len(np.intersect1d(*found[name])) == 0 and len(found[name][0]) == 80 for name in names)
    assert found["u2"][1].tolist() == list(range(20, 40))


def test_scores_that_know_the_test_set_are_perfect_and_what_was_rated_is_not_listed() -> None:
    ratings = made_up()
    training, test = (ratings.select(part) for part in recommenders.splits(ratings)["u1"])
    truth = np.zeros(ratings.shape)
    truth[test.rows, test.cols] = test.values
    truth[training.rows, training.cols] = 9.0  # a list of these would find nothing
    found = recommenders.evaluate(truth, training, test, stars=True)
    assert found["rmse"] == 0.0
    assert np.isin(test.cols, training.cols).all()  # or no list could be whole
    assert found["ndcg"] == 1.0 and found["recall"] == 1.0
    with pytest.raises(ValueError, match="some scores are NaN or infinite; give every film of every user a score"):
        recommenders.evaluate(np.full(ratings.shape, np.nan), training, test, stars=False)


def test_costs_are_ratios_to_the_baseline_of_the_same_split_and_groups_that_are_not_whole_are_left_out() -> None:
    def run(method: str, split: str, rmse: float, seconds: float) -> dict:
        return {"method": method, "split": split, "rmse": rmse, "ndcg": 0.5, "recall": 0.5, "map": 0.5,
                "cpu_seconds": seconds, "peak_mib": 2 * seconds}  # fmt: skip

    runs = [run(recommenders.BASELINE, f"u{k}", 0.9 + k / 100, k) for k in range(1, 6)]
    runs += [run("cmfrec CMF()", "u1", 1.0, 3.0)]
    found = recommenders.summary(runs)
    assert found[recommenders.BASELINE]["u1 to u5"]["rmse"] == 0.93
    assert found["cmfrec CMF()"]["u1"]["rmse"] == 1.0 and "u1 to u5" not in found["cmfrec CMF()"]
    assert found["cmfrec CMF()"][f"cpu_seconds of {recommenders.BASELINE}"] == 3.0


def test_hidden_entries_are_a_fifth_in_units_of_what_is_left() -> None:
    data, truth = hidden(1e3 * np.random.default_rng(0).standard_normal((400, 5)) + 7, seed=1)
    missing = np.isnan(data)
    assert 0.17 < missing.mean() < 0.23 and np.array_equal(data[~missing], truth[~missing])
    assert np.allclose(np.nanmean(data, 0), 0, atol=1e-12) and np.allclose(np.nanstd(data, 0), 1)
