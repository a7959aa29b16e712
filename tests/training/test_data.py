"""Data of a task: classes are the same in every source by name, and what is held out takes no class away."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as Stored
from PIL import Image

from tests.training import tiny
from training.data import load_splits
from training.errors import UsageError
from training.samples import drawn_rows, held_out_rows, rows_per_class
from training.settings.data import ImageDataArguments, TextDataArguments
from training.tasks.image_classification import image_columns
from training.tasks.labels import class_counts, names_of, row_classes, with_classes
from training.tasks.multilabel import multilabel_columns
from training.tasks.text_classification import class_columns
from training.tasks.token_classification import tag_columns


def loaded(dataset, **options):
    named = {name: str(one) if name.endswith("_data") else one for name, one in options.items()}
    data = TextDataArguments(dataset=str(dataset), **named)
    return load_splits(data, class_columns(data), classes=row_classes("label"))


def load_pictures(folder, **options):
    data = ImageDataArguments(dataset=str(folder), **options)
    return load_splits(data, image_columns(data), images=True)


def csv(path, *labels: object):
    path.write_text("\n".join(["text,label", *(f"film {n},{label}" for n, label in enumerate(labels))]))
    return path


def parquet(path, names: list[str], *labels: str):
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = {"text": [f"film {n}" for n in range(len(labels))], "label": list(labels)}
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def jsonl(path, *labels: object):
    import json

    path.write_text("\n".join(json.dumps({"text": f"film {n}", "label": one}) for n, one in enumerate(labels)))
    return path


def test_classes_are_matched_by_name_whatever_their_numbers_and_types(tmp_path) -> None:
    train = parquet(tmp_path / "train.parquet", ["apple", "banana", "kiwi"], *["apple", "kiwi", "banana", "kiwi"])
    for other in (
        parquet(tmp_path / "other.parquet", ["kiwi", "banana"], "kiwi", "banana", "kiwi"),
        csv(tmp_path / "other.csv", "kiwi", "banana", "kiwi"),
        jsonl(tmp_path / "other.jsonl", "kiwi", "banana", "kiwi"),
    ):
        splits = with_classes(loaded(train, validation_data=other, test_data=other), "label")
        assert splits["train"].features["label"].names == ["apple", "banana", "kiwi"]
        assert splits["train"]["label"][:] == [0, 2, 1, 2]
        assert splits["validation"]["label"][:] == splits["test"]["label"][:] == [2, 1, 2]
        assert class_counts(splits, "label")["validation"] == {"apple": 0, "banana": 1, "kiwi": 2}


@pytest.mark.parametrize(
    ("held", "other", "names", "numbers"),
    [
        (["0", "1", "x"], [1, 0], ["0", "1", "x"], [1, 0]),
        ([10, 9, 10], ["9", "10"], ["9", "10"], [0, 1]),
        (["1.0", "2.0", "2.0"], [2, 1], ["1", "2"], [1, 0]),
        ([True, False], ["True", "False"], ["False", "True"], [1, 0]),
        (["007", "7"], ["7", "007"], ["007", "7"], [1, 0]),
    ],
)
def test_labels_are_the_same_classes_as_texts_and_as_numbers(held, other, names, numbers, tmp_path) -> None:
    for train in (csv(tmp_path / "train.csv", *held), jsonl(tmp_path / "train.jsonl", *held)):
        splits = with_classes(loaded(train, validation_data=jsonl(tmp_path / "other.jsonl", *other)), "label")
        assert splits["train"].features["label"].names == names
        assert splits["validation"]["label"][:] == numbers


def test_unknown_names_and_hidden_labels_are_refused(tmp_path) -> None:
    train = csv(tmp_path / "train.csv", *["0", "1"] * 4)
    other = csv(tmp_path / "other.csv", "neg", "pos")
    known = r"\['neg', 'pos'\]; known are \['0', '1'\]"
    with pytest.raises(
        UsageError, match=f"of the validation data holds labels that the training data do not have: {known}"
    ):
        with_classes(loaded(train, validation_data=other), "label")
    hidden = csv(tmp_path / "hidden.csv", "-1", "-1")
    with pytest.raises(UsageError, match=r"the labels of the validation data are hidden \(-1\); pass data with labels"):
        with_classes(loaded(train, validation_data=hidden), "label")
    signs = csv(tmp_path / "signs.csv", *["-1", "1"] * 4)
    assert set(with_classes(loaded(signs, validation_data=signs, test_data=hidden), "label")) > {"test"}, (
        "-1 is a class"
    )


def test_names_in_other_letters_are_told(tmp_path) -> None:
    path = jsonl(tmp_path / "train.jsonl", *(["yes", "Yes", "no"] * 6))
    with pytest.warns(UserWarning, match="column 'label' holds 'Yes' and 'yes' as different names; .* alike .1 such"):
        splits = with_classes(loaded(path), "label")
    assert splits["train"].features["label"].names == ["Yes", "no", "yes"]


def test_columns_must_differ_and_splits_be_chosen(tmp_path) -> None:
    data = csv(tmp_path / "train.csv", "a", "b")
    with pytest.raises(
        UsageError, match=r"the columns \['text', 'text'\] must differ; choose with --text_column, --label_"
    ):
        loaded(data, label_column="text")
    (tmp_path / "more").mkdir()
    csv(tmp_path / "more" / "train.csv", "a", "b")
    csv(tmp_path / "more" / "test.csv", "a", "b", "a")
    assert len(loaded(data, test_data=tmp_path / "more", validation_data=data)["test"]) == 3, (
        "and not its training data"
    )
    with pytest.raises(UsageError, match=" has the splits .'train', 'test'.; choose with --validation_split"):
        loaded(data, validation_data=tmp_path / "more")


def test_what_is_held_out_is_stratified_and_single_examples_stay_in_training(tmp_path) -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"]
    for seed in range(5):
        splits = loaded(csv(tmp_path / "data.csv", *labels), sample_seed=seed)
        assert Counter(names_of(splits["validation"], "label")) == {"a": 6, "b": 3, "c": 1}
        assert Counter(names_of(splits["train"], "label"))["d"] == 1
        assert sorted(splits["train"]["text"][:] + splits["validation"]["text"][:]) == sorted(
            f"film {n}" for n in range(100)
        )
    assert loaded(csv(tmp_path / "data.csv", *labels))["train"]["text"][:] != [f"film {n}" for n in range(90)], "mixed"


def test_few_examples_of_many_classes_are_classes(tmp_path) -> None:
    data = csv(tmp_path / "data.csv", *[f"intent {n}" for n in range(77)] * 2)
    splits = with_classes(loaded(data), "label")
    assert len(set(splits["train"]["label"])) == 77 and len(splits["validation"]) == 15
    one = csv(tmp_path / "one.csv", *[f"intent {n}" for n in range(77)])
    assert len(loaded(one, validation_data=data)["train"]) == 77
    with pytest.raises(UsageError, match="77 different labels in 77 rows, 77 of which occur only once, are hardly"):
        loaded(one)
    with pytest.raises(UsageError, match="each class has one row, so none can be held out; pass more, or --validation"):
        loaded(csv(tmp_path / "two.csv", "a", "b"))


def test_training_samples_are_drawn_with_a_share_of_each_class_or_so_many_of_each(tmp_path) -> None:
    data = csv(tmp_path / "data.csv", *["a"] * 90, *["b"] * 9, "c")
    splits = loaded(data, validation_data=data, num_train_samples=10)
    assert Counter(names_of(splits["train"], "label")) == {"a": 8, "b": 1, "c": 1}
    splits = loaded(data, validation_data=data, num_train_samples_per_class=4)
    assert Counter(names_of(splits["train"], "label")) == {"a": 4, "b": 4, "c": 1}
    with pytest.raises(UsageError, match="--num_train_samples_per_class is for one class in each row, and replaces"):
        loaded(data, num_train_samples=4, num_train_samples_per_class=4)


def test_rows_are_chosen_by_seed_and_no_tag_is_taken_away() -> None:
    names = [["O", "A"], ["O"], ["O", "A"], ["O", "B"], ["O"]]
    for seed in range(10):
        chosen = held_out_rows(names, 4, seed)
        assert 3 not in chosen and len({0, 2} - set(chosen.tolist())) and len(chosen) == 3
        assert np.array_equal(chosen, held_out_rows(names, 4, seed))
    single = [["a"]] * 5 + [["b"]] * 5
    assert sorted(drawn_rows(single, 1, 0)) != sorted(drawn_rows(single, 1, 1)) or len(drawn_rows(single, 1, 0)) == 1
    assert len(rows_per_class(single, 9, 0)) == 10 and len(drawn_rows([], 3, 0)) == 0


def test_a_class_called_none_and_a_text_of_one_word_are_trained_on(bert, finetune, tmp_path) -> None:
    labels, texts = ["None", "hate"] * 20, ["n/a"] * 10 + ["a good film"] * 30
    data = tiny.save_csv(tmp_path / "data.csv", label=labels, text=texts)
    status, printed = finetune(bert, data, "--dry_run")
    assert status == 0 and "classification, 2 classes" in printed
    assert "classes  train (validation): 'None' 18 (2), 'hate' 18 (2)" in printed


def test_names_and_counts_of_many_classes_are_shortened() -> None:
    from training.results.report import _class_lines, _wrapped

    shown = _class_lines({"train": {f"class {n}": n for n in range(100)}})
    assert shown.startswith("train: 'class 0' 0, 'class 1' 1,") and " 60 more of 20 to 79 rows ..." in " ".join(
        shown.split()
    )
    assert max(map(len, _wrapped("classes", shown).split("\n"))) <= 80


@pytest.mark.parametrize("word", ["", "NA", "nan"])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_gap_among_numbers_is_named(word, task, bert, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "data.csv", label=[*range(2)] * 19 + [word] * 2)
    status, printed = finetune(bert, data, "--task", task)
    assert status == 2 and "is empty in 2 of 40 rows, the first is line 40 of" in printed, printed


def test_hidden_numbers_of_test_data_are_left_out(bert, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "data.csv", label=[n / 40 for n in range(40)])
    test = tiny.save_csv(tmp_path / "test.csv", label=[-1] * 40)
    with pytest.warns(UserWarning, match="labels of the test split are hidden"):
        status, printed = finetune(bert, data, "--task", "regression", "--test_data", test, "--dry_run")
    assert status == 0 and "36 train, 4 validation\n" in printed


def test_rows_that_are_trained_and_evaluated_on_are_told(tmp_path, recwarn) -> None:
    train = csv(tmp_path / "train.csv", *["a", "b"] * 4)
    other = csv(tmp_path / "other.csv", "a", "b", "b", "a")  # film 2 and film 3 with the other class
    with pytest.warns(UserWarning, match="2 of 4 validation rows are in the training data too, word for word, .* drop"):
        loaded(train, validation_data=other)
    named = parquet(tmp_path / "train.parquet", ["a", "b"], *["a", "b"] * 4)
    with pytest.warns(UserWarning, match="3 of 3 test rows are in the training data too"):
        loaded(named, validation_data=other, test_data=parquet(tmp_path / "other.parquet", ["b", "a"], "a", "b", "a"))
    recwarn.clear()
    assert len(loaded(train)["validation"]) and not [one for one in recwarn if "training data too" in str(one.message)]


@pytest.mark.parametrize(("columns", "name"), [(tag_columns, "tags"), (multilabel_columns, "label")])
def test_rows_with_lists_that_are_trained_and_evaluated_on_are_told(columns, name, tmp_path, recwarn) -> None:
    rows = [{"text": f"a film {n}", name: ["a", "b", str(n % 2)]} for n in range(9)]
    for file, held in (
        ("train", rows[:8]),
        ("same", rows[6:]),
        ("others", [rows[8], {**rows[0], name: ["a", "a", "b"]}]),
    ):
        (tmp_path / f"{file}.jsonl").write_text("\n".join(map(json.dumps, held)))
    for file, told in (("others", 0), ("same", 1)):
        data = TextDataArguments(dataset=str(tmp_path / "train.jsonl"), validation_data=str(tmp_path / f"{file}.jsonl"))
        load_splits(data, columns(data))
        assert [str(one.message)[:52] for one in recwarn] == [
            "2 of 3 validation rows are in the training data too,"
        ] * told


def test_a_class_of_one_row_beside_large_ones_is_told(tmp_path, recwarn) -> None:
    splits = with_classes(loaded(csv(tmp_path / "few.csv", *["a", "b"] * 4, "c")), "label")
    class_counts(splits, "label")
    assert not [one for one in recwarn if "second header" in str(one.message)]
    splits = with_classes(loaded(csv(tmp_path / "many.csv", "category", *["a", "b"] * 20)), "label")
    with pytest.warns(
        UserWarning, match=r"only one row of the train data has 'category' in the column 'label' \(1 such"
    ):
        class_counts(splits, "label")


def test_pictures_that_are_trained_and_evaluated_on_are_told(tmp_path, recwarn) -> None:
    """Copies by another name, links, and stored ones; others of the same size are others."""
    names = ("train/a/1", "train/a/2", "train/b/1", "train/b/2", "validation/b/1", "test/b/1")
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{name}.bmp")
    assert not recwarn.list and set(load_pictures(tmp_path)) == {"train", "validation", "test"} and not recwarn.list
    shutil.copy(tmp_path / "train/b/2.bmp", tmp_path / "test/b/copy.bmp")
    (tmp_path / "test/a").mkdir()
    (tmp_path / "test/a/link.bmp").symlink_to(tmp_path / "train/a/1.bmp")
    told = "2 of 3 test rows have pictures that are in the training data too, byte for byte, .* drop repeated pictures"
    with pytest.warns(UserWarning, match=told):
        load_pictures(tmp_path)
    rows = [{"image": {"bytes": (tmp_path / "train/a/1.bmp").read_bytes(), "path": "1.bmp"}, "label": "a"}]
    Dataset.from_list(rows).cast_column("image", Stored(decode=False)).to_parquet(tmp_path / "stored.parquet")
    with pytest.warns(UserWarning, match="1 of 1 validation rows have pictures that are in the training data too"):
        load_pictures(tmp_path, validation_data=str(tmp_path / "stored.parquet"))
