"""Scores by class against their definitions, the baseline, and tables within 80 columns."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training import tiny
from training.results.classes import class_scores
from training.results.labels import label_scores


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


def test_names_of_classes_stand_whole_above_their_columns_where_there_is_room() -> None:
    names = ["B-LOCATION", "B-LOC", "negative", "O"]
    table = class_scores(np.arange(4), np.arange(4), names, dict.fromkeys(names, 1)).table().splitlines()
    assert table[-5].split() == names and max(map(len, table)) <= 80


@pytest.mark.parametrize(("classes", "length"), [(2, 1), (10, 60), (11, 60), (77, 1)])
def test_tables_fit_a_terminal_and_name_the_commonest_confusions(classes, length, tmp_path) -> None:
    names = [f"{'n' * (length - 1)}{number}" for number in range(classes)]
    references = np.arange(4000) % classes
    predictions = np.where(references == 1, 0, references)
    scores = class_scores(predictions, references, names, dict.fromkeys(names, 1))
    text = scores.table()
    assert max(map(len, text.splitlines())) <= 80 and text.count("\n") < 40
    count = int((references == 1).sum())
    assert (f"{count} x " in text and "taken for" in text) if classes > 10 else f" {count}" in text
    scores.draw(tmp_path / "confusion.png", "test data")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_scores_by_label_are_those_of_their_definitions_and_of_the_best_answer_for_every_row() -> None:
    right = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
    found = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
    names, training, rows = ["a", "b", "c"], {"a": 6, "b": 5, "c": 1}, 10
    scores = label_scores(found, right, names, training, rows)
    assert scores.precision.tolist() == [1, 1 / 2, 0] and scores.recall.tolist() == pytest.approx([2 / 3, 1, 0])
    assert scores.f1.tolist() == pytest.approx([4 / 5, 2 / 3, 0]) and scores.counts.tolist() == [3, 1, 1]
    # Of 10 rows to train on 6 have a, 5 b and 1 c: naming a gives F1 12/22, a and b 22/32, all 24/42.
    assert scores.constant["f1_micro"] == (["a", "b"], pytest.approx(2 * 4 / (8 + 5)))
    assert scores.constant["accuracy"] == (["a"], 1 / 4), "only the last row has a and nothing else"
    assert scores.beside("f1_micro") == " (always 'a', 'b': 0.6154)" and not scores.beside("f1_macro")
    rare = label_scores(found, right, names, {"a": 2, "b": 1, "c": 1}, rows)
    assert rare.constant["accuracy"] == ([], 1 / 4) and "(always no label: 0.25)" in rare.beside("accuracy")


def test_a_table_of_labels_fits_a_terminal(tmp_path) -> None:
    names = [f"{'n' * 60}{number}" for number in range(40)]
    right = np.random.default_rng(0).random((30, 40)) < 0.5
    scores = label_scores(~right, right, names, dict.fromkeys(names, 1), 30)
    assert (
        max(map(len, scores.table().splitlines())) <= 80
        and "the 10 worst and the 10 best of 40 labels" in scores.table()
    )
    scores.draw(tmp_path / "labels.png", "test data")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")


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
