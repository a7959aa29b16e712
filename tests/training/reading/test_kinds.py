"""What columns hold: classes by name, finite numbers, words and tags; whatever else is named with its line."""

from __future__ import annotations

import json
import re
import warnings
from decimal import Decimal

import datasets
import pandas as pd
import pytest

from tests.training.reading.reading import columns, refusal, saved, wanted
from training.errors import UsageError
from training.reading.kinds import class_name, number, text, written
from training.reading.lists import captions, labels, tags, words
from training.reading.numbers import MISSING_WORDS
from training.reading.tables import of_data_set, typed
from training.tasks.labels import tell_of_alike

LABEL, NUMBER = wanted(label=class_name), wanted(label=number)


def csv(tmp_path, *values: object):
    return saved(tmp_path / "data.csv", "\n".join(["id,label", *(f"{n},{value}" for n, value in enumerate(values))]))


def test_words_for_what_is_missing_are_classes_among_texts_and_nothing_among_numbers(tmp_path) -> None:
    path = csv(tmp_path, *MISSING_WORDS, "x", "1")
    assert set(columns(path, LABEL)["label"]) == {*MISSING_WORDS, "x", "1"}
    told = refusal(csv(tmp_path, 1, 0, "NA", 1), LABEL)
    assert (
        told == "column 'label' of data.csv is empty in 1 of 4 rows, the first is line 4 of data.csv; fill or drop them"
    )
    assert "is empty in 2 of 4 rows" in refusal(csv(tmp_path, 1, "null", "", 1), NUMBER)
    assert "is empty in 1 of 3 rows" in refusal(csv(tmp_path, 1, r"\N", 1), LABEL), "as databases write it"
    assert "is empty in 1 of 3 rows" in refusal(csv(tmp_path, 1, "N/A", 1), wanted(label=written))
    assert columns(csv(tmp_path, "u1", "N/A"), wanted(label=written))["label"] == ["u1", "N/A"]
    assert columns(csv(tmp_path, "NA", "null"), LABEL)["label"] == ["NA", "null"]


def test_classes_are_texts_or_whole_numbers_and_spaces_at_their_ends_do_not_count(tmp_path) -> None:
    assert columns(csv(tmp_path, " pos ", "neg", "a b"), LABEL)["label"] == ["pos", "neg", "a b"]
    assert columns(csv(tmp_path, "1.0", "0.5", "x"), LABEL)["label"] == ["1.0", "0.5", "x"], (
        "with a text they are codes"
    )
    told = "column 'label' holds 0.5 in line 3 of data.csv; real numbers are not class names: pass --task regression"
    assert told in refusal(csv(tmp_path, "1.0", "0.5"), LABEL)
    frame = pd.DataFrame({"label": [1.0, 0.0, 2.0]})
    frame.to_parquet(tmp_path / "data.parquet")
    assert columns(tmp_path / "data.parquet", LABEL)["label"] == ["1", "0", "2"], "as pandas has integers beside gaps"


@pytest.mark.parametrize("blank", ["   ", "\u200b\ufeff", "\u00a0\u3000", "\u200f\u202a\u202c", "\u2028"])
def test_a_text_in_which_nothing_can_be_seen_is_empty(blank, tmp_path) -> None:
    path = saved(tmp_path / "data.jsonl", f'{{"text": "a"}}\n{{"text": "{blank}"}}\n')
    assert "column 'text' of data.jsonl is empty in 1 of 2 rows, the first is line 2" in refusal(
        path, wanted(text=text)
    )
    path = saved(tmp_path / "data.jsonl", f'{{"text": "a{blank}"}}\n{{"text": "{blank}."}}\n{{"text": "❤️"}}\n')
    assert columns(path, wanted(text=text))["text"] == [f"a{blank}", f"{blank}.", "❤️"], "texts stay as they are"


def test_nul_characters_are_refused_in_texts_and_names_of_any_file(tmp_path) -> None:
    path = saved(tmp_path / "data.jsonl", '{"text": "a", "label": "x"}\n{"text": "b\\u0000", "label": "y"}\n')
    told = "column 'text' holds 'b\\x00' in line 2 of data.jsonl; a text cannot hold NUL characters: remove them, or"
    assert told in refusal(path)
    pd.DataFrame({"text": ["a", "b\0"], "label": ["x", "y"]}).to_parquet(tmp_path / "data.parquet")
    assert "holds 'b\\x00' in row 1 (from 0) of data.parquet; a text cannot hold NUL characters" in refusal(
        tmp_path / "data.parquet"
    )


def test_half_a_character_in_a_list_is_named(tmp_path) -> None:
    path = saved(tmp_path / "data.jsonl", '{"label": ["a"]}\n{"label": ["b", "\\ud83d"]}\n')
    for kind in (words, tags, labels, captions):
        told = refusal(path, wanted(label=kind))
        assert "in line 2 of data.jsonl; half of a surrogate pair is not a character: save the file again" in told


def test_names_lose_what_is_unseen_at_their_ends_and_keep_the_marks_of_emojis(tmp_path) -> None:
    names = ["spam", "spam ", "spam\u200b", "\ufeffspam", "\u200fspam\u200e", "👩\u200d🚀", "❤\ufe0f"]
    right = ["spam"] * 5 + ["👩\u200d🚀", "❤\ufe0f"]
    assert columns(csv(tmp_path, *names), LABEL)["label"] == right
    lists = saved(tmp_path / "data.jsonl", "\n".join(f'{{"label": ["{name}"]}}' for name in names))
    for kind in (tags, labels):
        assert columns(lists, wanted(label=kind))["label"] == [[name] for name in right]
    assert columns(lists, wanted(label=words))["label"] == [[name] for name in names]
    with pytest.warns(UserWarning, match="holds 'a b' and 'a  b' and 'A.u200b b' as different names; if they are"):
        tell_of_alike(["a b", "a  b", "A\u200b b", "c"], "label")
    for one, other in (("\uff11", "1"), ("p\u043es", "pos"), ("semi\u2013good", "Semi-good"), ("a\u2019", "a'")):
        with pytest.warns(UserWarning, match=f"holds {one!r} and {other!r} as different names; if they are"):
            tell_of_alike([one, other, "c"], "label")
    with pytest.warns(UserWarning, match=r"holds '007' and '7' as different names; .* \(2 such names\)"):
        tell_of_alike(["007", "7", "1e5", "100000", "7a"], "label")


@pytest.mark.parametrize(("kind", "unit"), [(tags, "tag"), (labels, "label")])
@pytest.mark.parametrize("blank", ["", " ", "\u200b"])
def test_entries_without_a_visible_character_are_no_tags_or_labels(kind, unit, blank, tmp_path) -> None:
    path = saved(tmp_path / "data.jsonl", json.dumps({"label": ["x", blank]}))
    assert f"in line 1 of data.jsonl; it holds an empty {unit}; leave it out, or name it" in refusal(
        path, wanted(label=kind)
    )


def test_tags_with_commas_between_them_are_no_tags(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", 'words,label\nx,"O,B-LOC"\n')
    told = "holds 'O,B-LOC' in line 2 of data.csv; separate tags by spaces and not by commas, or write lists"
    assert told in refusal(path, wanted(label=tags))
    path = saved(tmp_path / "data.csv", 'words,label\nx,"O , B"\ny,","\n')
    assert columns(path, wanted(label=tags))["label"] == [["O", ",", "B"], [","]], (
        "a comma is a tag of the Penn treebank"
    )


def test_true_and_false_are_the_same_classes_in_any_spelling(tmp_path) -> None:
    assert columns(csv(tmp_path, "true", "TRUE", "False"), LABEL)["label"] == ["True", "True", "False"]
    path = saved(tmp_path / "data.jsonl", '{"label": true}\n{"label": "false"}\n{"label": false}\n')
    assert columns(path, LABEL)["label"] == ["True", "False", "False"]
    assert columns(csv(tmp_path, "true", "TRUE", "unsure"), LABEL)["label"] == ["true", "TRUE", "unsure"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([True, "1", 0, False], "holds '0' and 'False' as different names; .* write them alike .2 such names"),
        (["true", "1.0", "unsure"], "holds '1.0' and 'true' as different names"),
        (["1", "0", "x"], None),
        (["true", "false", "2"], None),
    ],
)
def test_true_beside_1_is_told(names, told, recwarn, tmp_path) -> None:
    content = "\n".join(json.dumps({"label": name}) for name in names)
    tell_of_alike(sorted(columns(saved(tmp_path / "data.jsonl", content), LABEL)["label"]), "label")
    assert len(recwarn) == bool(told)
    assert not told or re.search(told, str(recwarn[0].message))


@pytest.mark.parametrize("values", [["['a b', 'c']", "['d']"], ["b'a'", 'b"it\'s"'], ["{'a': 1}"], ["('a', 'b')"]])
def test_texts_that_all_look_like_what_python_prints_are_told(values, tmp_path) -> None:
    path = saved(tmp_path / "data.jsonl", "\n".join(json.dumps({"text": one}) for one in values))
    with pytest.warns(UserWarning) as told:
        assert columns(path, wanted(text=text))["text"] == values
    assert str(told[0].message).replace(f"{tmp_path}/", "") == (
        f"all texts of the column 'text' of data.jsonl look like lists or bytes of Python, such as {values[0]!r}, and "
        "are read as they are written; write what is inside of them, if this is not meant"
    )
    path = saved(tmp_path / "data.jsonl", "\n".join(json.dumps({"text": one}) for one in [*values, "a ['b']"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns(path, wanted(text=text))


def test_numbers_are_finite_and_written_with_a_point(tmp_path) -> None:
    assert columns(csv(tmp_path, "1", " -2.5e1 ", ".5", "+3."), NUMBER)["label"] == [1, -25, 0.5, 3]
    for value in ("x", "inf", "1e999", "0x10", "1 2", "True"):
        told = refusal(csv(tmp_path, 1, value), NUMBER)
        assert told == f"column 'label' holds '{value}' in line 3 of data.csv; it must be a finite number"
    told = refusal(saved(tmp_path / "data.csv", "id;label\n1;0,5\n"), NUMBER)
    assert told.endswith("holds '0,5' in line 2 of data.csv; it must be a finite number, with a point: 0.5 for 0,5")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("7", "1,000", "2,500"), "without separators of thousands: 1000 for 1,000"),
        (("1,000,000.5",), "without separators of thousands: 1000 for 1,000"),
        (("1,000", "2,5"), "with a point: 0.5 for 0,5"),
        (("1.000.000",), "without separators of thousands and with a point: 1000.5 for 1.000,5"),
        (("1.000,5",), "without separators of thousands and with a point: 1000.5 for 1.000,5"),
        (("1", "\u22124.5"), "with an ordinary minus: -5 for \u22125"),
        (("1\u00a0000",), "without separators of thousands: 1000 for 1 000"),
        (("1_000",), "without separators of thousands: 1000 for 1 000"),
        (("50%",), "without signs: 50 for 50% or $50"),
        (("$1,000",), "without signs: 50 for 50% or $50"),
    ],
)
def test_numbers_that_are_written_otherwise_are_refused_with_how_to_write_them(values, told, tmp_path) -> None:
    rows = "".join(f"{value}\t1\n" for value in values)
    assert refusal(saved(tmp_path / "data.tsv", f"label\tid\n{rows}"), NUMBER).endswith(f"a finite number, {told}")


def test_points_that_may_separate_thousands_are_told(tmp_path) -> None:
    with pytest.warns(UserWarning, match=r"holds numbers such as 1\.200, which is read as 1\.2; if the points sep"):
        assert columns(csv(tmp_path, "950", "1.200", "7"), NUMBER)["label"] == [950, 1.2, 7]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in (("0.125", "1.200"), ("1.200", "2.500"), ("1", "1.200"), ("950", "1.25"), ("5000", "1.200")):
            columns(csv(tmp_path, *values), NUMBER)


def test_decimals_of_parquet_are_numbers_and_classes(tmp_path) -> None:
    values = [Decimal("1.00"), Decimal("2.00")]
    pd.DataFrame({"label": values}).to_parquet(path := tmp_path / "data.parquet")
    assert columns(path, NUMBER)["label"] == [1, 2] and columns(path, LABEL)["label"] == ["1", "2"]
    pd.DataFrame({"label": [Decimal("1.5")]}).to_parquet(path)
    assert columns(path, NUMBER)["label"] == [1.5] and "pass --task regression" in refusal(path, LABEL)


def table(feature, *values):
    features = datasets.Features({"label": feature})
    return of_data_set(datasets.Dataset.from_dict({"label": list(values)}, features=features), "the train data")


def test_numbers_of_classes_that_do_not_exist_are_named() -> None:
    names = datasets.ClassLabel(names=["neg", "pos"])
    assert typed(table(names, 0, 1), LABEL).features["label"] == names
    assert typed(table(names, -1, -1), LABEL)["label"][:] == [-1, -1], "all hidden, as in test data of benchmarks"
    with pytest.raises(
        UsageError, match=r"holds -1 in row 1 \(from 0\) of the train data; it must be the number of one"
    ):
        typed(table(names, 0, -1), LABEL)
    with pytest.raises(UsageError, match="holds 1 in row 0 .*; every entry must be a text"):
        typed(table(datasets.Value("int64"), 1), wanted(label=text))
    with pytest.raises(UsageError, match="it must hold one integer or text in each row"):
        typed(table(datasets.Value("float64"), float("inf")), wanted(label=written))


@pytest.mark.parametrize("name", ["['a']", "['a', 'b']", '["a"]', "('a', 'b')", "{'a'}", '{"choices": ["a"]}'])
def test_lists_of_names_are_no_class(name, tmp_path) -> None:
    rows = [{"text": "x", "label": "b"}, {"text": "y", "label": name}]
    path = saved(tmp_path / "data.jsonl", "\n".join(map(json.dumps, rows)))
    assert "in line 2 of data.jsonl; it looks like a list, and a class is one name" in refusal(path)


def test_intervals_and_names_in_brackets_are_classes(tmp_path) -> None:
    names = ["(0, 10]", "[10, 20]", "[none]", "(a)", "{b}"]
    path = saved(tmp_path / "data.jsonl", "\n".join(json.dumps({"text": "x", "label": name}) for name in names))
    assert columns(path)["label"] == names


def test_tags_of_a_data_set_go_by_their_names(tmp_path) -> None:
    feature = datasets.Sequence(datasets.ClassLabel(names=["O", "B-LOC"]))
    held = typed(table(feature, [0, 1, -100], [1]), wanted(label=tags))["label"][:]
    assert held == [["O", "B-LOC", "-100"], ["B-LOC"]]
    with pytest.raises(UsageError, match="holds -1 in row 0 .*; each tag must be the number of one of 2 tags, or -100"):
        typed(table(feature, [0, -1]), wanted(label=tags))
