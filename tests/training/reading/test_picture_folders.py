"""Folders of pictures: which folders are splits, which are classes, and what is told of the others."""

from __future__ import annotations

import warnings

import pytest

from tests.training.reading.reading import columns, pictures, saved, wanted
from training.errors import UsageError
from training.reading.kinds import class_name, picture
from training.reading.sources import read_source
from training.settings.data import FileArguments

PICTURES = wanted(image=picture, label=class_name)


def sources(folder, images: bool = True):
    return read_source(str(folder), FileArguments(), images=images)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["training_set", "test_set"], {"train", "test"}),
        (["train2017", "val2017"], {"train", "validation"}),
        (["cats-train", "cats-valid"], {"train", "validation"}),
        (["train_station", "test_pilot"], None),
        (["train_set", "boat_set"], None),
        (["model_train", "model_car"], None),
        (["test_a", "test_b"], None),
    ],
)
def test_folders_of_pictures_are_splits_by_the_names_that_files_are(names, expected, tmp_path) -> None:
    found = sources(pictures(tmp_path, *(f"{name}/{inner}/1.png" for name in names for inner in ("x", "y"))))
    assert set(found) == (expected or {"train"})
    assert found["train"](PICTURES).features["label"].names == (["x", "y"] if expected else sorted(names))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"], True),
        (["art/cat", "art/dog", "photo/cat", "photo/dog", "photo/elk"], True),
        (["dark/2021", "light/2021"], False),
        (["dark/2021", "dark/2022", "light/2023"], False),
        (["dark", "light"], False),
    ],
)
def test_the_same_folders_inside_of_those_of_classes_are_told(names, told, tmp_path) -> None:
    folder = pictures(tmp_path, *(f"{name}/1.png" for name in names))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert sources(folder)["train"](PICTURES).features["label"].names == sorted({n.split("/")[0] for n in names})
    assert len(caught) == told
    assert not told or "are the classes, and all of them hold the folders cat, dog; if those are the classes, " in str(
        caught[0].message
    )


def test_class_folders_may_be_called_like_splits_and_pictures_too(tmp_path) -> None:
    words = [f"train/train_station_{n}.png" for n in range(3)]
    folder = pictures(tmp_path, "boat/test_1.png", "boat/1.png", "car/val.png", *words)
    assert set(sources(folder)) == {"train"}
    data = sources(folder)["train"](PICTURES)
    assert data.features["label"].names == ["boat", "car", "train"] and data["label"][:] == [0, 0, 1, 2, 2, 2]


def test_the_first_level_is_the_class_in_folders_of_splits_too(tmp_path) -> None:
    names = ["dark/2021/a.png", "dark/2022/a.png", "light/2021/a.png", "light/b.png"]
    data = sources(pictures(tmp_path / "plain", *names))["train"](PICTURES)
    assert data.features["label"].names == ["dark", "light"] and data["label"][:] == [0, 0, 1, 1]
    pictures(tmp_path / "split", *(f"train/{name}" for name in names), "test/dark/1/a.png")
    found = sources(tmp_path / "split")
    assert list(found) == ["test", "train"] and found["test"](PICTURES).features["label"].names == ["dark"]
    assert found["train"](PICTURES)["label"][:] == [0, 0, 1, 1]
    pictures(tmp_path / "split", "training/dark/a.png")
    with pytest.raises(UsageError, match="has two folders for one split .*; keep one of them"):
        sources(tmp_path / "split")


def test_no_class_is_lost_by_its_name_or_as_a_link(tmp_path) -> None:
    names = ["_bad/_1.png", "readme/1.png", "license.plate/license.png", "cafe\u0301/1.png"]
    folder = pictures(tmp_path / "all", *names, ".cache/1.png", "__MACOSX/1.png")
    (folder / "linked").symlink_to(pictures(tmp_path / "other", "2021/1.png"))
    (folder / "linked" / "2021" / "around").symlink_to(folder)
    data = sources(folder)["train"](PICTURES)
    assert data.features["label"].names == ["_bad", "caf\u00e9", "license.plate", "linked", "readme"] and len(data) == 5
    saved(folder.parent / "names.csv", "text,label\na,cafe\u0301\n")
    assert columns(folder.parent / "names.csv")["label"] == ["caf\u00e9"]


def test_a_second_link_to_a_folder_is_left_out_and_told_but_not_one_around_it(tmp_path) -> None:
    pictures(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b" / "around").symlink_to(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(sources(tmp_path)["train"](PICTURES)) == 2
    (tmp_path / "c").symlink_to(tmp_path / "a")
    with pytest.warns(UserWarning, match="/c is left out: it is the same folder as .*/a$"):
        assert sources(tmp_path)["train"](PICTURES).features["label"].names == ["a", "b"]


def test_splits_inside_the_folders_of_classes_are_not_mixed(tmp_path) -> None:
    folder = pictures(tmp_path / "inside", "dark/train/1.png", "dark/test/1.png", "light/train/1.png")
    told = r"the folders of classes in .* hold folders of splits \(test, train\); splits come first: test/dark for dark"
    with pytest.raises(UsageError, match=told):
        sources(folder)["train"](PICTURES)
    pictures(folder, "light/2021/1.png")
    assert len(sources(folder)["train"](PICTURES)) == 4
    assert set(sources(pictures(tmp_path / "two", "test/a/1.png", "val/a/1.png"))) == {
        "test",
        "validation",
    }


@pytest.mark.parametrize("beside", ["classes.txt", "data.yaml", "annotations.json"])
def test_files_beside_split_folders_of_pictures_are_left_out_and_told(beside, tmp_path) -> None:
    pictures(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png")
    saved(tmp_path / beside, "x")
    with pytest.warns(UserWarning, match=f"1 files in .* are left out, the first is {beside}: they are not images"):
        found = sources(tmp_path)
    assert set(found) == {"train", "validation"}
    assert found["train"](PICTURES).features["label"].names == ["a", "b"]


def test_a_folder_around_the_folders_of_classes_is_named(tmp_path) -> None:
    pictures(tmp_path, "data/cat/1.png", "data/dog/1.png")
    with pytest.raises(UsageError, match="are in folders inside data; pass .*/data if they are classes"):
        sources(tmp_path)


def test_pictures_without_a_class_are_told_or_refused(tmp_path) -> None:
    folder = pictures(tmp_path, "a.png", "b.png")
    with pytest.raises(UsageError, match="holds 2 pictures, none of them in a class folder; make a folder for"):
        sources(folder)["train"](PICTURES)
    (folder / "b.png").unlink()
    with pytest.raises(UsageError, match="holds 1 pictures, none of them in a class folder"):
        sources(folder)["train"](PICTURES)
    pictures(folder, "b.png", "x/1.png", "y/1.png")
    saved(folder / "notes.docx", "x")
    with pytest.warns(UserWarning) as told:
        assert len(sources(folder)["train"](PICTURES)) == 2
    texts = [str(one.message) for one in told]
    assert any("2 pictures in" in one and "they are in no class folder" in one for one in texts)
    assert any("1 files in" in one and "they are not images that can be read" in one for one in texts)


def test_pictures_alone_need_no_classes(tmp_path) -> None:
    pictures(tmp_path, "a.png", "b.png", "x/1.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sources(tmp_path)["train"](wanted(image=picture))
    assert [row["path"] for row in found["image"]] == [str(tmp_path / name) for name in ("a.png", "b.png", "x/1.png")]
