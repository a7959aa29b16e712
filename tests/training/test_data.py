"""What csv and tsv files hold is read as it is written: words for what is missing are texts among texts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.training import tiny
from training.data import MISSING_WORDS, find_names, number_names, read_source, read_table
from training.errors import UsageError


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_words_for_what_is_missing_are_texts_among_texts_and_empty_among_numbers(suffix, tmp_path) -> None:
    assert len(MISSING_WORDS) > 10
    path = tmp_path / f"data{suffix}"
    rows = ["text,number,truth,void", *(f"{word},{word},{word},{word}" for word in MISSING_WORDS), "x,0.5,True,", ",,,"]
    path.write_text("\n".join(rows).replace(",", "\t" if suffix == ".tsv" else ","))
    held = read_source(str(path))["train"]
    assert held["text"][:] == [*MISSING_WORDS, "x", None], "only what is empty is empty"
    assert held["number"][:] == [*[None] * len(MISSING_WORDS), 0.5, None]
    assert held["truth"][:] == [*MISSING_WORDS, "True", None]
    assert held["void"][:] == [*MISSING_WORDS, None, None]


def test_a_folder_of_csv_files_is_read_as_one_file(tmp_path) -> None:
    folder = tmp_path / "data"
    (folder / "more").mkdir(parents=True)
    (folder / "train-1.csv").write_text("text,number,mixed\nNA,1,7\nx,NA,8\n,2,9\n")
    (folder / "train-2.csv").write_text("text,number,mixed\nnull,null,None\n")
    (folder / "more" / "test.csv").write_text("text,number,mixed\nNone,3,1\n")
    held = read_source(str(folder))
    assert held["train"]["text"][:] == ["NA", "x", None, "null"] and held["test"]["text"][:] == ["None"]
    assert held["train"]["number"][:] == [1, None, 2, None] and held["test"]["number"][:] == [3]
    assert held["train"]["mixed"][:] == [7, 8, 9, None]


def test_a_folder_of_tsv_files_and_one_that_says_what_is_missing_are_read_as_they_say(tmp_path) -> None:
    for name in ("tabs", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "tabs" / "data.tsv").write_text("text\tnumber\nNone, or so\tNA\nNA\t2\n")
    held = read_source(str(tmp_path / "tabs"))["train"]
    assert held["text"][:] == ["None, or so", "NA"] and held["number"][:] == [None, 2]
    (tmp_path / "own" / "data.csv").write_text("text;number\n-;1\nNone;2\n")
    for words, expected in ((", na_values: ['-']", [None, None]), (", keep_default_na: false", ["-", "None"]),
                            ("", ["-", "None"])):  # fmt: skip
        configs = f"---\nconfigs:\n- {{config_name: default, data_files: data.csv, sep: ;{words}}}\n---\n"
        (tmp_path / "own" / "README.md").write_text(configs)
        assert read_source(str(tmp_path / "own"))["train"]["text"][:] == expected


def test_folders_of_other_files_are_read_as_before(tmp_path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "NA"}\n{"text": null}\n')
    assert read_source(str(tmp_path))["train"]["text"][:] == ["NA", None]
    tiny.save_pictures(tmp_path / "images", rows=2).rename(tmp_path / "images" / "metadata.csv")
    text = (tmp_path / "images" / "metadata.csv").read_text().replace("image,text", "file_name,text")
    (tmp_path / "images" / "metadata.csv").write_text(text)
    assert len(read_source(str(tmp_path / "images"))["train"]) == 2


def test_columns_without_such_words_keep_their_types(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,count,real,truth,void\na,1,1.5,True,\nb,2,,False,\n")
    features = read_source(str(path))["train"].features
    kinds = {name: feature.dtype.removeprefix("large_") for name, feature in features.items()}
    assert kinds == {"text": "string", "count": "int64", "real": "float64", "truth": "bool", "void": "float64"}


@pytest.mark.parametrize("first", ["3,None", "NA,b"], ids=["numbers_then_words", "words_then_texts"])
def test_words_after_many_rows_are_read_as_in_the_first(first, tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("number,label\n" + f"{first}\n" * 10_001 + "NA,b\n")
    number, label = first.split(",")
    held = read_source(str(path))["train"]
    assert held["label"][0] == label and held["label"][-1] == "b"
    assert (held["number"][0], held["number"][-1]) == ((3, None) if number == "3" else ("NA", "NA"))


def test_a_file_whose_parts_do_not_fit_is_refused_with_the_reason(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(UsageError, match=r"data.csv cannot be loaded: .*Expected 2 fields in line 3, saw 3"):
        read_source(str(path))
    path.write_text("a\n" + "1\n" * 10_000 + "x\n")
    with pytest.raises(UsageError, match=r"data.csv cannot be loaded: An error .*: Failed to parse string: 'x' as"):
        read_source(str(path))


def test_a_class_called_none_and_a_text_of_one_word_are_trained_on(bert, finetune, tmp_path) -> None:
    labels, texts = ["None", "hate"] * 20, ["n/a"] * 10 + ["a good film"] * 30
    data = tiny.save_csv(tmp_path / "data.csv", label=labels, text=texts)
    status, printed = finetune(bert, data, "--dry_run")
    assert status == 0 and "classification, 2 classes" in printed


@pytest.mark.parametrize("word", ["", "NA", "nan"])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_gap_among_numbers_is_named(word, task, bert, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "data.csv", label=[*range(2)] * 19 + [word] * 2)
    status, printed = finetune(bert, data, "--task", task, "--num_validation_samples", "1")
    assert status == 2 and "column 'label' of the train data is empty in" in printed, printed


def test_tables_keep_texts_as_they_are_written_and_other_files_their_types(tmp_path) -> None:
    table = pd.DataFrame({"user": ["001", "NA", "1.0"], "film": [1, 2, 3]})
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        table.to_csv(tmp_path / f"data{suffix}", sep=separator, index=False)
    table.to_json(tmp_path / "data.json", orient="records", lines=True)
    table.to_parquet(tmp_path / "data.parquet")
    for suffix in (".csv", ".tsv", ".json", ".parquet"):
        held = read_table(str(tmp_path / f"data{suffix}"), ["user", "no such column"])
        assert held["user"].tolist() == ["001", "NA", "1.0"] and held["film"].tolist() == [1, 2, 3]


def test_tables_without_rows_or_bytes_are_refused(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("user,film\n")
    with pytest.raises(UsageError, match="has no rows; at least one is needed"):
        read_table(str(path), ["user"])
    path.write_text("")
    with pytest.raises(UsageError, match="is empty; it needs a header and at least one row"):
        read_table(str(path), ["user"])
    path.write_bytes(b"user\n\xff\xfe\n")
    with pytest.raises(UsageError, match="cannot be loaded: .*codec can't decode"):
        read_table(str(path), ["user"])
    with pytest.raises(UsageError, match="file not found: none.csv"):
        read_table("none.csv", ["user"])


@pytest.mark.parametrize(
    ("held", "names", "wanted", "found"),
    [
        (["10", "9", "9.0"], ["9", "10"], ["9", "9.00", " 10", "09", "9..0", "b"], [0, 0, 1, -1, -1, -1]),
        ([2, 10, 2], ["2", "10"], ["2.0", 10, "002"], [0, 1, -1]),
        ([2.0, 10.0, 0.5], ["0.5", "2", "10"], [10, "0.50", 2.5], [2, 0, -1]),
        (["7", "007"], ["007", "7"], ["7", "007", "7.0", "07"], [1, 0, -1, -1]),
        (["1.0", "1", "beta"], ["1", "1.0", "beta"], ["1", "1.0", "1.00"], [0, 1, -1]),
        (["-1", "-1.5", "3"], ["-1.5", "-1", "3"], ["-1.0", "-1.50"], [1, 0]),
        ([str(2**63), str(2**63 + 1)], [str(2**63), str(2**63 + 1)], [f"{2**63 + 1}.0"], [1]),
    ],
    ids=["numbers", "integers", "reals", "codes", "texts", "signs", "large"],
)
def test_names_are_found_by_value_among_numbers_and_as_written_otherwise(held, names, wanted, found) -> None:
    codes, known = number_names(pd.Series(held))
    assert known == names
    assert np.array_equal(find_names(known, pd.Series(held)), codes) and sorted(set(codes)) == list(range(len(names)))
    assert find_names(known, pd.Series(wanted, dtype=object)).tolist() == found
