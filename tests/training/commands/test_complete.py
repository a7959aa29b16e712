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
    assert not list((tmp_path / "out").glob(".*.partial*"))


@pytest.mark.parametrize(
    ("first", "second"), [("u 1", "U 1"), ("caf\u00e9", "cafe\u0301"), ("u1", "u1 "), ("7", "007")]
)
def test_names_of_rows_that_only_look_alike_are_told(first, second, tmp_path) -> None:
    data = tmp_path / "data.csv"
    data.write_text(f"row,column,value\n{first},a,1\n{second},b,2\nv,a,1\n{10**19},b,2\n{10**19 + 1},b,1\n")
    with pytest.warns(UserWarning) as told:
        assert complete(data, tmp_path / "out", "--dry_run") == 0
    (one,) = [str(one.message) for one in told]
    assert repr(first) in one and repr(second) in one
    assert "column 'row' holds " in one and "if they are the same row, write them alike (1 such names)" in one


def test_the_values_that_were_read_are_shown_by_their_range(tmp_path, capsys) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(
        "row,column,value,time\n" + "\n".join(f"{n},{m},{n % 5 / 2},{97830 + m}" for n in range(9) for m in (1, 2))
    )
    for words, told in (((), "0 to 2"), (("--value_column", "time"), "97831 to 97832")):
        assert complete(path, tmp_path / "out", "--dry_run", *words) == 0
        assert f"values from {told}, rank up to 2" in capsys.readouterr().out


def test_dry_run_writes_nothing_and_a_second_process_does_no_work(ratings, tmp_path, monkeypatch) -> None:
    assert complete(ratings, tmp_path / "out", "--dry_run") == 0 and not (tmp_path / "out").exists()
    monkeypatch.setenv("RANK", "1")
    assert complete(ratings, tmp_path / "out") == 0 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--row_column", "user"],
            r"no column \['user'\] in .*, only \['row', 'column', 'value'\]: choose with --row_column, --column_column",
        ),
        (["--value_column", "row", "--row_column", "value"], "in line 2 of .*ratings.csv; it must be a finite number"),
        (["--rank", "3"], "the matrix cannot be completed: .*rank"),
        (["--test_fraction", "1"], "--test_fraction got 1.0; it must be at least 0 and below 1"),
        (["--predict", "none.csv"], "file not found: none.csv"),
        (
            ["--value_column", "column"],
            r"--row_column, --column_column and --value_column got \['row', 'column', 'column'\]; they must differ",
        ),
        (["--row_column", "column"], r"--value_column got \['column', 'column', 'value'\]; they must differ"),
    ],
)
def test_what_cannot_be_completed_is_refused(words, message, ratings, tmp_path, capsys) -> None:
    assert complete(ratings, tmp_path / "out", *words) == 2
    assert re.search(message, capsys.readouterr().err)


def test_unknown_names_are_predicted_by_what_is_known_and_told(ratings, tmp_path, capsys) -> None:
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("row,column\nuser 03,film 02\nnobody,film 02\nuser 03,no film\nnobody,no film\n")
    assert complete(ratings, tmp_path / "out", "--predict", wanted, "--max_epochs", "5") == 0
    told = capsys.readouterr().err
    assert (
        "names ['nobody'] in 'row', which the data do not have, in 2 of 4 entries: they are predicted only from" in told
    )
    assert "names ['no film'] in 'column', which the data do not have, in 2 of 4 entries" in told
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert found["row"].tolist() == ["user 03", "nobody", "user 03", "nobody"]
    model = MatrixCompletion.load(tmp_path / "out" / "model.safetensors")
    row, column = model.row_bias_[3], model.column_bias_[2]
    known = [model.predict(3, 2), model.mean_ + column, model.mean_ + row, model.mean_]
    assert found["value"].to_numpy() == pytest.approx(known) and row and column
    results = tiny.results(tmp_path / "out")
    assert results["unknown_names"] == {"rows": ["nobody"], "columns": ["no film"]} and results["predicted"] == 4
    assert model.complete().shape == (20, 15), "they are not rows of the model"


def test_folders_of_splits_and_what_no_library_knows_are_refused(ratings, tmp_path, capsys) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train.csv", "test.csv"):
        (tmp_path / "data" / name).write_bytes(ratings.read_bytes())
    assert complete(tmp_path / "data", tmp_path / "out") == 2
    assert "has the splits ['train', 'test']; pass the file of one of them" in capsys.readouterr().err
    assert complete("no/such-data", tmp_path / "out") == 1
    assert "the data set no/such-data cannot be loaded: " in capsys.readouterr().err


def test_ratings_that_begin_with_marks_lose_no_rows(tmp_path, capsys) -> None:
    rows = [f"{chr(34) if n in (3, 9) else ''}user {n}\tfilm {n % 3}\t{n % 5}" for n in range(30)]
    (tmp_path / "data.tsv").write_text("\n".join(["row\tcolumn\tvalue", *rows]))
    assert complete(tmp_path / "data.tsv", tmp_path / "out", "--dry_run") == 0
    assert "30 of 30 x 3 entries" in capsys.readouterr().out


def test_a_small_matrix_is_completed_with_the_default_rank(tmp_path) -> None:
    data = save(tmp_path / "data.csv", with_ids("a", "b", "c"))
    words = ["--data", data, "--output_dir", tmp_path / "out", "--test_fraction", "0", "--max_epochs", "2"]
    assert main(["complete", *map(str, words)]) == 0
    assert MatrixCompletion.load(tmp_path / "out" / "model.safetensors").left_.shape == (3, 4)


def test_empty_places_are_named(ratings, tmp_path, capsys) -> None:
    ratings.write_text("row,column,value\na,b,1\na,b,2\n")
    assert complete(ratings, tmp_path / "out") == 2
    printed = capsys.readouterr().err
    told = f"1 entries of {ratings} are duplicates, the first is line 3 of {ratings} (and line 2 of {ratings}); each"
    assert told in printed
    for name, rows in (("a.csv", "a,b,1\n"), ("b.csv", "b,b,2\na,b,2\n")):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / name).write_text("row,column,value\n" + rows)
    assert complete(tmp_path / "parts", tmp_path / "out") == 2
    places = [tmp_path / "parts" / "b.csv", tmp_path / "parts" / "a.csv"]
    told = f"the first is line 3 of {places[0]} (and line 2 of {places[1]}); each pair of row and column may have one"
    assert told in capsys.readouterr().err
    ratings.write_text("row,column,value\na,,1\nb,c,2\n")
    assert complete(ratings, tmp_path / "out") == 2 and "column 'column' of" in capsys.readouterr().err
    assert main(["complete"]) == 2 and "no data to complete were given; pass --data" in capsys.readouterr().err
    ratings.write_text("row,column,value\na,b,1\nb,c,NA\n")
    assert complete(ratings, tmp_path / "out") == 2
    assert "is empty in 1 of 2 rows, the first is line 3 of" in capsys.readouterr().err


def save(path: Path, table: pd.DataFrame) -> Path:
    writers = {
        ".csv": lambda: table.to_csv(path, index=False),
        ".tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        ".json": lambda: table.to_json(path, orient="records", lines=True),
        ".parquet": lambda: table.to_parquet(path),
    }
    writers[path.suffix]()
    return path


def with_ids(*ids: object) -> pd.DataFrame:
    """Every one of these rows with each of four columns."""
    return pd.DataFrame(
        [{"row": one, "column": f"c{j}", "value": i + j} for i, one in enumerate(ids) for j in range(4)]
    )


FORMATS = (".csv", ".tsv", ".json", ".parquet")


@pytest.mark.parametrize("suffix", FORMATS)
def test_ids_that_are_texts_keep_their_zeros_whatever_else_their_file_holds(suffix, tmp_path) -> None:
    data = save(tmp_path / f"data{suffix}", with_ids("001", "7", "007", "bob", "NA"))
    wanted = pd.DataFrame({"row": ["001", "007", "7"], "column": ["c1", "c2", "c2"]})
    save(tmp_path / f"wanted{suffix}", wanted)
    assert complete(data, tmp_path / "out", "--predict", tmp_path / f"wanted{suffix}", "--max_epochs", "2") == 0
    assert json.loads((tmp_path / "out" / "names.json").read_text())["rows"] == ["001", "007", "7", "NA", "bob"]
    found = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype={"row": str})
    assert found["row"].tolist() == ["001", "007", "7"], "as in the wanted file"
    model = MatrixCompletion.load(tmp_path / "out" / "model.safetensors")
    assert found["value"].to_numpy() == pytest.approx(model.predict([0, 1, 2], [1, 2, 2]))


@pytest.mark.parametrize("suffix", FORMATS)
def test_ids_that_are_numbers_are_found_by_value_and_written_as_they_were(suffix, tmp_path) -> None:
    data = save(tmp_path / f"data{suffix}", with_ids(1, 2, 10))
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("row,column\n10.0,c0\n2,c0\n")
    assert complete(data, tmp_path / "out", "--predict", wanted, "--max_epochs", "2") == 0
    assert json.loads((tmp_path / "out" / "names.json").read_text())["rows"] == ["1", "2", "10"], "in their order"
    assert re.findall(r"^([\d.]+),c0,", (tmp_path / "out" / "predictions.csv").read_text(), re.M) == ["10.0", "2"]
    model = MatrixCompletion.load(tmp_path / "out" / "model.safetensors")
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")["value"]
    assert found.to_numpy() == pytest.approx(model.predict([2, 1], [0, 0]))


@pytest.mark.parametrize(("held", "wanted"), [(("007", "8"), 7), ((7, 8), "007"), (("7", "bob"), "7.0")], ids=str)
def test_names_that_are_written_otherwise_are_not_taken_for_another(held, wanted, tmp_path, capsys) -> None:
    data = save(tmp_path / "data.csv", with_ids(*held))
    table = save(tmp_path / "wanted.parquet", pd.DataFrame({"row": [wanted], "column": ["c1"]}))
    assert complete(data, tmp_path / "out", "--predict", table, "--max_epochs", "2") == 0
    printed = capsys.readouterr().err
    assert f"names ['{wanted}'] in 'row', which the data do not have, in 1 of 1 entries" in printed
    assert "if this is not meant, write names as in the data (7 is not 007; 1.0 is 1 if all are numbers)" in printed
    model = MatrixCompletion.load(tmp_path / "out" / "model.safetensors")
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")["value"]
    assert found.to_numpy() == pytest.approx([model.mean_ + model.column_bias_[1]])


def test_one_number_written_in_two_ways_is_one_name(tmp_path, capsys) -> None:
    data = tmp_path / "data.csv"
    data.write_text("row,column,value\n1,a,1\n1.0,a,2\n2,a,2\n")
    assert complete(data, tmp_path / "out") == 2 and "1 entries of" in capsys.readouterr().err
    data.write_text("row,column,value\n01,a,1\n1,a,2\n2,a,2\n")
    assert complete(data, tmp_path / "out", "--dry_run") == 0 and "of 3 x 1 entries" in capsys.readouterr().out


def test_a_fit_that_diverges_ends_with_status_1_and_a_sentence(ratings, tmp_path, capsys) -> None:
    words = ["--max_epochs", "60", "--validation_fraction", "0"]
    assert complete(ratings, tmp_path / "out", *words, "--learning_rate", "1e9") == 1
    message = r"error: training diverged in epoch \d+: .*; lower learning_rate .*1e\+09\)\. Of this fit nothing is kept"
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out" / "results.json").exists()
    assert complete(ratings, tmp_path / "out", *words) == 0, "the folder serves for another rate"


def test_the_checkpoint_of_a_fit_that_diverges_is_named(ratings, tmp_path, capsys, monkeypatch) -> None:
    def diverging(self, *_, **__):
        Path(self.checkpoint).write_bytes(b"an epoch that went well")
        raise FloatingPointError("training diverged in epoch 11")

    monkeypatch.setattr(MatrixCompletion, "fit", diverging)
    assert complete(ratings, tmp_path / "out") == 1
    kept = tmp_path / "out" / "checkpoint.safetensors"
    assert f"in epoch 11. Of this fit {kept} is kept; delete it to start over" in capsys.readouterr().err
