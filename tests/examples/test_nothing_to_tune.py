"""The main job's data never leak from training into testing, its scores are right, and a wrong export is told."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tests.examples import cases

example = cases.load("nothing_to_tune")


def written(tmp_path, **columns) -> str:
    path = tmp_path / "mine.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def texts(count: int) -> list[str]:
    return [f"the film {number} was fine" for number in range(count)]


def test_pairs_to_train_on_are_not_tested_on_and_their_numbers_stay(tmp_path) -> None:
    labels = [number / 100 for number in range(100)]
    path = written(tmp_path, text=texts(100), text_pair=["a plot"] * 100, label=labels)
    rows, test, classes = example.load(example.Arguments(dataset=path, num_train_samples=20), 0)
    assert (len(rows), len(test), classes) == (20, 80, 0) and not set(rows["text"]) & set(test["text"])
    known = dict(zip(texts(100), labels, strict=True))
    for table in (rows, test):
        assert table["label"].tolist() == pytest.approx([known[text] for text in table["text"]])
    other = example.load(example.Arguments(dataset=path, num_train_samples=20), 1)[0]
    assert set(other["text"]) != set(rows["text"])


@pytest.mark.parametrize("names", [["bad", "good"], [0, 1], ["None", "NA"]])
def test_a_text_is_paired_with_the_name_of_every_class_and_its_own_is_one(names, tmp_path) -> None:
    path = written(
        tmp_path, text=[*texts(99), texts(1)[0]], label=[names[number % 2] for number in range(99)] + names[:1]
    )
    rows, test, classes = example.load(example.Arguments(dataset=path, num_train_samples=20), 0)
    assert classes == 2 and len(rows) == 40 and len(test) == 2 * 79, "a repeated text counts once"
    assert not set(rows["text"]) & set(test["text"])
    own = rows[rows["label"] == 1]
    assert len(own) == 20
    for text, name in zip(own["text"], own["text_pair"], strict=True):
        assert name == str(names[int(text.split()[2]) % 2])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": texts(80), "label": [0, 1] * 40}, "80 different rows; 64 to train on and 50 to test on are needed"),
        ({"words": texts(200), "label": [0, 1] * 100}, "needs the columns text and label, and text_pair for pairs"),
    ],
)
def test_a_file_that_does_not_do_is_refused(columns, message, tmp_path) -> None:
    with pytest.raises(SystemExit, match=message):
        example.load(example.Arguments(dataset=written(tmp_path, **columns)), 0)


class Fixed(example.PairTrainer):
    """A trainer whose cosines are given."""

    def __init__(self, cosines: list[float]) -> None:
        self.given, self.model = torch.tensor(cosines), torch.nn.Identity()

    def cosines(self, model, rows):
        return self.given


def test_scores_are_spearmans_correlation_and_the_share_of_nearest_classes() -> None:
    pairs = pd.DataFrame({"label": [0.1, 0.2, 0.3, 0.4]}, index=[9, 7, 3, 1])
    assert Fixed([0.0, 0.5, 0.6, 0.9]).score(pairs, 0) == pytest.approx(100)
    assert Fixed([0.9, 0.6, 0.5, 0.0]).score(pairs, 0) == pytest.approx(-100)
    classes = pd.DataFrame({"label": [1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0]})  # three texts of four classes
    assert Fixed([0.9, 0.1, 0.2, 0.3, 0.4, 0.1, 0.5, 0.2, 0.1, 0.7, 0.3, 0.2]).score(classes, 4) == pytest.approx(
        200 / 3
    )


def test_the_rate_decides_for_lora_alone_and_the_export_agrees(alone) -> None:
    found = json.loads((alone("nothing_to_tune") / "results.json").read_text())
    runs = pd.DataFrame(found["runs"]).pivot(index=["rank", "rate"], columns="method", values="score")
    assert runs.index.tolist() == [(2, 1e-3), (8, 1e-3), (8, 1e-1)]
    ours, theirs = (runs.loc[8, name].to_numpy() for name in ("Deep LoRA", "LoRA"))
    assert np.ptp(ours) < 1e-6 < np.ptp(theirs)
    assert found["export"]["agrees"] and found["export"]["texts"] == 336 and set(found["kept"].values()) <= {*range(9)}


def test_an_export_that_computes_anything_else_ends_with_status_1(words, monkeypatch, tmp_path) -> None:
    def differ(command: list, check: bool) -> None:
        command[-1].write_text('{"agrees": false}', encoding="utf8")

    monkeypatch.setattr(example.subprocess, "run", differ)
    given = [*words["nothing_to_tune"], "--rates", "1e-3", "--ranks", "8", "--max_steps", "1"]
    assert cases.run(example, monkeypatch, *given, "--output_dir", tmp_path) == 1
