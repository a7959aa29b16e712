"""`deep-lora complete` on files of named rows and columns."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from dmf import MatrixCompletion
from tests.training import tiny
from training.cli import main

QUICK = ["--rank", "2", "--max_epochs", "400", "--weight_decay", "0"]


@pytest.fixture
def ratings(tmp_path) -> Path:
    """Half of the entries of a matrix of rank one whose rows and columns have names."""
    table = pd.DataFrame(
        [
            {"row": f"user {i:02}", "column": f"film {j:02}", "value": (1 + i / 10) * (2 - j / 15)}
            for i in range(20)
            for j in range(15)
        ]
    )
    path = tmp_path / "ratings.csv"
    table.sample(frac=0.6, random_state=0).to_csv(path, index=False)
    return path


def complete(data: Path, output: Path, *words: object) -> int:
    return main(["complete", "--data", str(data), "--output_dir", str(output), *QUICK, *map(str, words)])


def test_held_out_entries_are_found_and_the_saved_model_gives_them(ratings, tmp_path, capsys) -> None:
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("row,column\nuser 03,film 02\nuser 11,film 14\n")
    assert complete(ratings, tmp_path / "out", "--predict", wanted) == 0
    assert "180 of 20 x 15 entries (60.00%)" in capsys.readouterr().out
    found = tiny.results(tmp_path / "out")
    errors = found["metrics"]["test"]
    assert errors["rmse"] ** 2 < 0.1 * errors["rmse_of_mean"] ** 2, "nine tenths of the variance are explained"
    assert (found["entries"], found["held_out"]) == (180, 18)
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")["value"]
    names = json.loads((tmp_path / "out" / "names.json").read_text())
    assert names["rows"][3] == "user 03"
    model = MatrixCompletion.load(tmp_path / "out" / "model.safetensors")
    assert predictions.to_numpy() == pytest.approx(model.predict([3, 11], [2, 14]))
    assert predictions.to_numpy() == pytest.approx([1.3 * (2 - 2 / 15), 2.1 * (2 - 14 / 15)], rel=0.15)
    assert (tmp_path / "out" / "training.png").stat().st_size > 1000
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_dry_run_writes_nothing_and_a_second_process_does_no_work(ratings, tmp_path, monkeypatch) -> None:
    assert complete(ratings, tmp_path / "out", "--dry_run") == 0 and not (tmp_path / "out").exists()
    monkeypatch.setenv("RANK", "1")
    assert complete(ratings, tmp_path / "out") == 0 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row_column", "user"], r"has no column \['user'\]; it has \['row', 'column', 'value'\]"),
        (["--value_column", "row", "--row_column", "value"], "is no finite number in row 0"),
        (["--rank", "3"], "the matrix cannot be completed: .*rank"),
        (["--test_fraction", "1"], "--test_fraction got 1.0; it must be at least 0 and below 1"),
        (["--predict", "none.csv"], "there is no file none.csv"),
    ],
)
def test_what_cannot_be_completed_is_refused(words, message, ratings, tmp_path, capsys) -> None:
    assert complete(ratings, tmp_path / "out", *words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_unknown_names_and_empty_places_are_named(ratings, tmp_path, capsys) -> None:
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("row,column\nnobody,film 02\n")
    assert complete(ratings, tmp_path / "out", "--predict", wanted) == 2 and not (tmp_path / "out").exists()
    assert "names ['nobody'] in 'row', which the data do not have" in capsys.readouterr().err
    ratings.write_text("row,column,value\na,b,1\na,b,2\n")
    assert complete(ratings, tmp_path / "out") == 2
    assert "1 entries of" in (printed := capsys.readouterr().err) and "come twice; each row and column" in printed
    ratings.write_text("row,column,value\na,,1\nb,c,2\n")
    assert complete(ratings, tmp_path / "out") == 2 and "has empty places in" in capsys.readouterr().err
    assert main(["complete"]) == 2 and "there is nothing to complete; pass --data" in capsys.readouterr().err
