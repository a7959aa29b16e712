"""Folders: splits only where the top level is nothing else, classes by the first level, and what is left out told."""

from __future__ import annotations

import json
import warnings

import pytest
from datasets import Dataset, DatasetDict

from tests.training.reading.reading import columns, pictures, refusal, saved, wanted
from training.errors import UsageError
from training.reading.folders import split_files
from training.reading.kinds import class_name, picture, text
from training.reading.sources import read_source
from training.settings.data import FileArguments

PICTURES = wanted(image=picture, label=class_name)
TEXT = wanted(text=text)


def sources(folder, images: bool = False):
    return read_source(str(folder), FileArguments(), images=images)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.csv", "test.csv", "dev.jsonl"], {"train": 1, "validation": 1, "test": 1}),
        (["train-00000-of-00002.csv", "train-00001-of-00002.csv", "val.csv"], {"train": 2, "validation": 1}),
        (["reviews_train.csv", "reviews_test.csv"], {"train": 1, "test": 1}),
        (["train/a.csv", "train/b/c.csv", "test/a.csv"], {"train": 2, "test": 1}),
        (["train1.csv", "train2.csv", "Test1.csv"], {"train": 2, "test": 1}),
        (["training_2020.csv", "2021.csv"], {"train": 2}),
        (["training_2020.csv", "test_2021.csv"], {"train": 1, "test": 1}),
        (["train_station.csv", "boat.csv", "test_pilot.csv"], {"train": 3}),
        (["train_station.csv", "test_pilot.csv"], {"train": 2}),
        (["train/a.csv", "boat/a.csv", "car/a.csv"], {"train": 3}),
        (["train.csv", "more/test.csv"], {"train": 2}),
        (["latest.csv", "evaluations.csv"], {"train": 2}),
        (["test.csv"], {"test": 1}),
    ],
)
def test_a_folder_has_splits_only_if_all_of_its_top_level_is_splits(names, expected, tmp_path) -> None:
    files = [saved(tmp_path / name, "text\na\n") for name in names]
    assert {split: len(held) for split, held in split_files(tmp_path, files).items()} == expected
    assert set(sources(tmp_path)) == set(expected)


def test_names_of_splits_that_are_not_taken_for_splits_are_told(tmp_path) -> None:
    for name in ("train.csv", "test.csv", "notes.csv"):
        saved(tmp_path / name, "text,label\na,1\n")
    with pytest.warns(
        UserWarning, match="all of .* is training data: test.csv is named like a split, but notes.csv is"
    ):
        assert len(columns(tmp_path)["text"]) == 3
    with pytest.warns(
        UserWarning, match="is training data: train is named like a split, but boat is not; if it is one"
    ):
        sources(pictures(tmp_path, "train/1.png", "boat/1.png"), images=True)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["reviews_train.csv", "reviews_test_v2.csv"], "reviews_test_v2.csv"),
        (["a/train.csv", "a/test.csv", "b.csv"], "a/test.csv"),
        (["a/c.csv", "a/val/c.csv"], "a/val/c.csv"),
        (["a/train.csv", "a/tests.csv", "b.csv"], None),
    ],
)
def test_files_of_other_splits_that_are_trained_on_are_told(names, named, tmp_path) -> None:
    for name in names:
        saved(tmp_path / name, "text,label\na,1\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(columns(tmp_path)["text"]) == len(names)
    told = [str(one.message) for one in caught]
    assert len(told) == bool(named)
    assert not named or f"is training data, also {named}, which is named like another split; name " in told[0]


def test_locks_of_office_are_no_data(tmp_path) -> None:
    saved(tmp_path / "train.csv", "text,label\na,1\n")
    saved(tmp_path / "~$train.xlsx", "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert columns(tmp_path)["text"] == ["a"]


def test_paths_as_windows_writes_them_are_found_and_addresses_are_not(tmp_path) -> None:
    pictures(tmp_path, "photos/1.png")
    path = saved(tmp_path / "data.csv", "image,label\nphotos\\1.png,a\n")
    assert columns(path, PICTURES)["image"][0]["path"] == str(tmp_path / "photos/1.png")
    path = saved(tmp_path / "data.csv", "image,label\nhttp://x/1.png,a\n")
    assert "are absolute; pictures with an address, or in base64, have to be saved as files first" in refusal(
        path, PICTURES
    )
    path = saved(tmp_path / "data.jsonl", json.dumps({"image": "iVBORw0KGgo" + "A" * 10**6, "label": "a"}))
    assert "A (line 1 of data.jsonl); paths start" in refusal(path, PICTURES) and len(refusal(path, PICTURES)) < 700
    path = saved(tmp_path / "data.jsonl", json.dumps({"image": {"bytes": None, "path": None}, "label": "a"}))
    assert "column 'image' of data.jsonl is empty in 1 of 1 rows" in refusal(path, PICTURES)


def test_files_of_one_split_are_read_below_each_other_whatever_their_kind(tmp_path) -> None:
    saved(tmp_path / "a.csv", "text,label\nNA,1\n")
    saved(tmp_path / "b.jsonl", '{"label": 0, "text": "null"}')
    saved(tmp_path / "README.md", "about")
    assert columns(tmp_path) == {"text": ["NA", "null"], "label": ["1", "0"]}
    saved(tmp_path / "notes.docx", "x")
    with pytest.warns(UserWarning, match="1 files in .* are left out, the first is notes.docx: readable are .csv"):
        assert len(columns(tmp_path)["text"]) == 2
    saved(tmp_path / "c.csv", "words,label\nNA,1\n")
    with pytest.warns(UserWarning), pytest.raises(UsageError, match=r"no column \['text'\] in .*c.csv, only"):
        columns(tmp_path)


def test_folders_without_a_file_that_can_be_read_are_refused_and_arrow_files_are_read(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    for name, told in (
        (".keep", "read; pass a folder with .csv"),
        ("a.md", r"read \(1 files, such as a.md\); pass a folder with .csv"),
    ):
        saved(tmp_path / "data" / name, "a")
        for images in (False, True):
            with pytest.raises(UsageError, match=f"no file in .*data can be {told}, .*, or with images for a"):
                sources(tmp_path / "data", images=images)
    Dataset.from_dict({"text": ["007", "NA"], "label": ["x", "y"]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(tmp_path / "data" / "data.arrow")
    assert columns(tmp_path / "data")["text"] == ["007", "NA"]


def test_classes_that_files_number_differently_are_joined_by_name(tmp_path) -> None:
    from datasets import ClassLabel, Features, Value

    for name, names in (("a", ["x", "y"]), ("b", ["y", "x"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        Dataset.from_dict({"text": [name], "label": [0]}, features=features).to_parquet(tmp_path / f"{name}.parquet")
    assert columns(tmp_path) == {"text": ["a", "b"], "label": ["x", "y"]}


def test_folders_that_say_how_they_are_read_and_saved_data_sets_are_read_so(tmp_path) -> None:
    saved(tmp_path / "own" / "data.csv", "text;number\n-;1\nNone;2\n")
    card = "---\nconfigs:\n- {config_name: default, data_files: data.csv, sep: ;WORDS}\n---\n"
    for words, expected in ((", keep_default_na: false", ["-", "None"]), ("", ["-", "None"])):
        saved(tmp_path / "own" / "README.md", card.replace("WORDS", words))
        assert columns(tmp_path / "own", TEXT)["text"] == expected
    saved(tmp_path / "codes" / "README.md", card.replace("WORDS", ""))
    saved(tmp_path / "codes" / "data.csv", "text;label\n1e5;007\n2;7\n")
    assert columns(tmp_path / "codes") == {"text": ["1e5", "2"], "label": ["007", "7"]}
    saved(tmp_path / "own" / "README.md", card.replace("WORDS", ", na_values: ['-']"))
    with pytest.raises(UsageError, match="is empty in 2 of 2 rows, the first is row 0 .from 0. of the train data"):
        columns(tmp_path / "own", TEXT)
    data = Dataset.from_dict({"text": ["a"], "label": ["x"]})
    data.save_to_disk(tmp_path / "one")
    DatasetDict(train=data, test=data).save_to_disk(tmp_path / "two")
    assert columns(tmp_path / "one") == columns(tmp_path / "two", split="test") == {"text": ["a"], "label": ["x"]}


@pytest.mark.parametrize("name", ["no/such/file", "./none", "none.csv", "~/none", "none.CSV.gz"])
def test_a_path_that_is_not_there_is_named(name) -> None:
    with pytest.raises(UsageError, match=f"file not found: {name}; pass the path of a file or a folder"):
        read_source(name, FileArguments())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (" ", "the name of the data is empty; pass a file, a folder, or the name of a data set"),
        ("/dev/null", "{} is not a regular file, and the data are read more than once; save them to a file first"),
        ("https://x.org/a.csv", "https://x.org/a.csv is a URL; download the file, and pass its path"),
    ],
)
def test_what_is_neither_a_file_nor_a_name_is_refused(name, told) -> None:
    with pytest.raises(UsageError) as caught:
        read_source(name, FileArguments())
    assert str(caught.value) == told.format(name)


def test_metadata_says_what_pictures_show_and_counts_those_it_does_not_name(tmp_path) -> None:
    folder = pictures(tmp_path, "train_station_1.png", "sub/train_2.png", "test_3.png")
    saved(folder / "metadata.csv", "file_name,label\ntrain_station_1.png,x\nsub/train_2.png,y\n")
    with pytest.warns(UserWarning, match="1 pictures in .* the first is test_3.png: metadata.csv does not name them"):
        data = sources(folder, images=True)["train"](PICTURES)
    assert data["label"][:] == ["x", "y"] and data["image"][0]["path"].endswith("train_station_1.png")
    saved(folder / "metadata.csv", "file_name,label\nnone.png,x\ntrain_station_1.png,y\n")
    with pytest.raises(UsageError, match=r"1 images in column 'file_name' of .*none.png \(line 2 of .*metadata.csv\)"):
        sources(folder, images=True)["train"](PICTURES)


def test_a_table_may_name_pictures_by_their_paths(tmp_path) -> None:
    pictures(tmp_path, "p/1.png")
    path = saved(tmp_path / "data.csv", "image,label\np/1.png,x\n")
    assert columns(path, PICTURES)["image"] == [{"bytes": None, "path": str(tmp_path / "p" / "1.png")}]
    path = saved(tmp_path / "data.jsonl", '{"image": 7, "label": "x"}')
    assert "column 'image' holds 7 in line 1 of data.jsonl; it must hold images, or paths" in refusal(path, PICTURES)
