"""Scores by class against their definitions, the baseline, and tables within 80 columns."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training import tiny
from training.results.classes import class_scores, draw, table


def test_scores_are_those_of_their_definitions_and_the_baseline_that_of_the_commonest_training_class() -> None:
    references, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 1])
    scores = class_scores(predictions, references, ["a", "b", "c", "d"], {"a": 5, "b": 9, "c": 1, "d": 1})
    assert scores.confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert scores.precision.tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert scores.recall.tolist() == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert scores.f1.tolist() == pytest.approx([2 / 3, 2 / 5, 0, 0])
    assert scores.baseline == pytest.approx(2 / 6), "b is the commonest of training, and 2 of 6 here"
    assert scores.as_json()["scores"]["b"] == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "count": 2}
    )


@pytest.mark.parametrize(("classes", "length"), [(2, 1), (10, 60), (11, 60), (77, 1)])
def test_tables_fit_a_terminal_and_name_the_commonest_confusions(classes, length, tmp_path) -> None:
    names = [f"{'n' * (length - 1)}{number}" for number in range(classes)]
    references = np.arange(4000) % classes
    predictions = np.where(references == 1, 0, references)
    scores = class_scores(predictions, references, names, dict.fromkeys(names, 1))
    text = table(scores)
    assert max(map(len, text.splitlines())) <= 80 and text.count("\n") < 40
    count = int((references == 1).sum())
    assert (f"{count} x " in text and "taken for" in text) if classes > 10 else f" {count}" in text
    draw(tmp_path / "confusion.png", scores, "test data")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_prints_and_writes_them(bert, reviews, finetune, tmp_path) -> None:
    test_data = tiny.save_csv(tmp_path / "test.csv", rows=9, seed=1)
    status, printed = finetune(bert, reviews, "--test_data", test_data, "--overwrite")
    assert status == 0, printed
    found = tiny.results(tmp_path / "run")
    test = found["by_class"]["test"]
    assert np.sum(test["confusion"]) == 9 and np.trace(test["confusion"]) / 9 == found["metrics"]["test"]["accuracy"]
    assert test["commonest_class"] == "neg" and test["accuracy_of_commonest_class"] == pytest.approx(5 / 9)
    assert "(always 'neg': 0.5556)" in printed and "test data, class by class:" in printed
    assert (tmp_path / "run" / "confusion.png").is_file()
    wide = [
        line for line in printed.splitlines() if len(line) > 80 and line[0] not in "{D" and str(tmp_path) not in line
    ]
    assert not wide, wide
