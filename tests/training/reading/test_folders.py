"""Folders: splits only where the top level is nothing else, classes by the first level, and what is left out told."""

from __future__ import annotations

import json
import warnings

import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from tests.training.reading.reading import columns, refusal, saved, wanted
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
        UserWarning, match="all of .* is training data: test.csv is called like a split, but notes.csv is"
    ):
        assert len(columns(tmp_path)["text"]) == 3
    with pytest.warns(
        UserWarning, match="is training data: train is called like a split, but boat is not; if it is one"
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
    assert not named or f"is training data, also {named}, which is called like another split; name " in told[0]


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
        (".keep", "read; needed are .csv"),
        ("a.md", r"read \(1 files, such as a.md\); needed are .csv"),
    ):
        saved(tmp_path / "data" / name, "a")
        for images in (False, True):
            with pytest.raises(UsageError, match=f"data holds no file that can be {told}, .*, or images for a task wi"):
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
        ("/dev/null", "/dev/null is not a regular file, and a file is read more than once; save it as one first"),
        ("https://x.org/a.csv", "https://x.org/a.csv is an address; download the file, and pass its path"),
    ],
)
def test_what_is_neither_a_file_nor_a_name_is_refused(name, told) -> None:
    with pytest.raises(UsageError) as caught:
        read_source(name, FileArguments())
    assert str(caught.value) == told


def pictures(folder, *names: str):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(folder / name)
    return folder


def test_class_folders_may_be_called_like_splits_and_pictures_too(tmp_path) -> None:
    words = [f"train/train_station_{n}.png" for n in range(3)]
    folder = pictures(tmp_path, "boat/test_1.png", "boat/1.png", "car/val.png", *words)
    assert set(sources(folder, images=True)) == {"train"}
    data = sources(folder, images=True)["train"](PICTURES)
    assert data.features["label"].names == ["boat", "car", "train"] and data["label"][:] == [0, 0, 1, 2, 2, 2]


def test_the_first_level_is_the_class_in_folders_of_splits_too(tmp_path) -> None:
    names = ["dark/2021/a.png", "dark/2022/a.png", "light/2021/a.png", "light/b.png"]
    data = sources(pictures(tmp_path / "plain", *names), images=True)["train"](PICTURES)
    assert data.features["label"].names == ["dark", "light"] and data["label"][:] == [0, 0, 1, 1]
    pictures(tmp_path / "split", *(f"train/{name}" for name in names), "test/dark/1/a.png")
    found = sources(tmp_path / "split", images=True)
    assert list(found) == ["test", "train"] and found["test"](PICTURES).features["label"].names == ["dark"]
    assert found["train"](PICTURES)["label"][:] == [0, 0, 1, 1]
    pictures(tmp_path / "split", "training/dark/a.png")
    with pytest.raises(UsageError, match="has two folders for one split .*; keep one of them"):
        sources(tmp_path / "split", images=True)


def test_no_class_is_lost_by_its_name_or_as_a_link(tmp_path) -> None:
    names = ["_bad/_1.png", "readme/1.png", "license.plate/license.png", "cafe\u0301/1.png"]
    folder = pictures(tmp_path / "all", *names, ".cache/1.png", "__MACOSX/1.png")
    (folder / "linked").symlink_to(pictures(tmp_path / "other", "2021/1.png"))
    (folder / "linked" / "2021" / "around").symlink_to(folder)
    data = sources(folder, images=True)["train"](PICTURES)
    assert data.features["label"].names == ["_bad", "caf\u00e9", "license.plate", "linked", "readme"] and len(data) == 5
    saved(folder.parent / "names.csv", "text,label\na,cafe\u0301\n")
    assert columns(folder.parent / "names.csv")["label"] == ["caf\u00e9"]


def test_a_second_link_to_a_folder_is_left_out_and_told_but_not_one_around_it(tmp_path) -> None:
    pictures(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b" / "around").symlink_to(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(sources(tmp_path, images=True)["train"](PICTURES)) == 2
    (tmp_path / "c").symlink_to(tmp_path / "a")
    with pytest.warns(UserWarning, match="/c is left out: it is the same folder as .*/a$"):
        assert sources(tmp_path, images=True)["train"](PICTURES).features["label"].names == ["a", "b"]


def test_splits_inside_the_folders_of_classes_are_not_mixed(tmp_path) -> None:
    folder = pictures(tmp_path / "inside", "dark/train/1.png", "dark/test/1.png", "light/train/1.png")
    told = r"the folders of classes in .* hold folders of splits \(test, train\); splits come first: test/dark for dark"
    with pytest.raises(UsageError, match=told):
        sources(folder, images=True)["train"](PICTURES)
    pictures(folder, "light/2021/1.png")
    assert len(sources(folder, images=True)["train"](PICTURES)) == 4
    assert set(sources(pictures(tmp_path / "two", "test/a/1.png", "val/a/1.png"), images=True)) == {
        "test",
        "validation",
    }


@pytest.mark.parametrize("beside", ["classes.txt", "data.yaml", "annotations.json"])
def test_files_beside_split_folders_of_pictures_are_left_out_and_told(beside, tmp_path) -> None:
    pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png")
    saved(tmp_path / beside, "x")
    with pytest.warns(UserWarning, match=f"1 files in .* are left out, the first is {beside}: they are not images"):
        found = sources(tmp_path, images=True)
    assert set(found) == {"train", "validation"}
    assert found["train"](PICTURES).features["label"].names == ["a", "b"]


def test_a_folder_around_the_folders_of_classes_is_named(tmp_path) -> None:
    pictures(tmp_path, "data/cat/1.png", "data/dog/1.png")
    with pytest.raises(UsageError, match="are in folders inside data; pass .*/data if they are classes"):
        sources(tmp_path, images=True)


def test_pictures_without_a_class_are_told_or_refused(tmp_path) -> None:
    folder = pictures(tmp_path, "a.png", "b.png")
    with pytest.raises(UsageError, match="holds 2 pictures, none of them in the folder of a class; make a folder for"):
        sources(folder, images=True)["train"](PICTURES)
    (folder / "b.png").unlink()
    with pytest.raises(UsageError, match="holds 1 pictures, none of them in the folder of a class"):
        sources(folder, images=True)["train"](PICTURES)
    pictures(folder, "b.png", "x/1.png", "y/1.png")
    saved(folder / "notes.docx", "x")
    with pytest.warns(UserWarning) as told:
        assert len(sources(folder, images=True)["train"](PICTURES)) == 2
    texts = [str(one.message) for one in told]
    assert any("2 pictures in" in one and "they are in no folder of a class" in one for one in texts)
    assert any("1 files in" in one and "they are not images that can be read" in one for one in texts)


def test_pictures_alone_need_no_classes(tmp_path) -> None:
    pictures(tmp_path, "a.png", "b.png", "x/1.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sources(tmp_path, images=True)["train"](wanted(image=picture))
    assert [row["path"] for row in found["image"]] == [str(tmp_path / name) for name in ("a.png", "b.png", "x/1.png")]


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
