"""Json files: rows however they are arranged, or a sentence with the line."""

from __future__ import annotations

import json

import pytest

from tests.training.reading.reading import columns, refusal, saved, wanted
from training.reading.kinds import number, text
from training.reading.lists import tags, words

ROWS = [{"text": "a", "label": 1, "id": 1}, {"text": "b", "label": "x", "id": "A2"}]
READ = {"text": ["a", "b"], "label": ["1", "x"]}


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(map(json.dumps, ROWS)),
        "\n\n" + "\n\n".join(map(json.dumps, ROWS)) + "\n\n",
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"version": "1", "data": ROWS}),
        json.dumps({"data": ROWS}, indent=1),
        json.dumps({"text": ["a", "b"], "label": [1, "x"]}),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_rows_are_found_and_columns_may_hold_texts_and_numbers(content, suffix, tmp_path) -> None:
    assert columns(saved(tmp_path / f"data{suffix}", content)) == READ


def test_one_object_with_lists_is_one_row_where_rows_are_lists(tmp_path) -> None:
    kinds = wanted(text=words, label=tags)
    path = saved(tmp_path / "a.jsonl", json.dumps({"text": ["a", "b"], "label": ["O", "X"]}))
    assert columns(path, kinds) == {"text": [["a", "b"]], "label": [["O", "X"]]}
    saved(path, json.dumps({"text": [["a"], ["b", "c"]], "label": [["O"], ["X", "O"]]}))
    assert columns(path, kinds) == {"text": [["a"], ["b", "c"]], "label": [["O"], ["X", "O"]]}


def test_one_object_is_one_row_and_separators_of_unicode_end_no_line(tmp_path) -> None:
    assert columns(saved(tmp_path / "a.jsonl", '{"text": "a\u2028b\x85c", "label": 1}'))["text"] == ["a\u2028b\x85c"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            '{"text": "a", "label": 1}\n{"text": 7, "label": 1}',
            "column 'text' holds 7 in line 2 of data.jsonl; every entry",
        ),
        (
            '[{"text": "a", "label": 1},\n\n{"text": 7, "label": 1}]',
            "column 'text' holds 7 in row 2 of data.jsonl; every",
        ),
        (
            '{"text": "a", "label": 1}\n\n{"text": "b"}',
            "column 'label' of data.jsonl is empty in 1 of 2 rows, the first is line 3",
        ),
        ('{"text": "a", "label": null}', "is empty in 1 of 1 rows"),
        ('{"text": "a", "label": NaN}', "is empty in 1 of 1 rows"),
        (
            '{"text": "a", "label": [1]}',
            "column 'label' holds [1] in line 1 of data.jsonl; it must hold one integer or text",
        ),
        (
            '{"text": "a", "label": 1}\n{"text": "b"',
            "line 2 of data.jsonl is not JSON: Expecting ',' delimiter at character",
        ),
        (
            '{"text": "a", "label": 1}\n[2]',
            "line 2 of data.jsonl is list, not an object; needed is one object in each line",
        ),
        ('{"text": "a", "text": "b", "label": 1}', "line 1 of data.jsonl is not JSON: an object names 'text' twice"),
        ('{"a": [{"text": "a"}], "b": [{"text": "b"}]}', "data.jsonl holds several lists of objects (a, b); needed is"),
        (
            '{"text": {"0": "a"}, "label": {"0": 1}}',
            "data.jsonl holds one object with ['text', 'label']; needed is one",
        ),
        ('{"text": "\\ud800", "label": 1}', "half of a surrogate pair is not a character: save the file again"),
        ("7", "data.jsonl holds int; needed is one object in each line"),
        ("text,label\na,b\n", "line 1 of data.jsonl is not JSON: Expecting value at character 1; needed is one object"),
        (
            '{"words": "a", "label": 1}',
            "there is no column ['text'] in data.jsonl, only ['words', 'label']: choose with",
        ),
        ('{"messages": []}', "; columns such as 'messages' are for --task chat"),
        ('{"chosen": "a", "rejected": "b"}', "; columns such as 'chosen' and 'rejected' are for --task dpo"),
    ],
)
def test_what_is_no_row_is_named_with_its_line(content, told, tmp_path) -> None:
    assert told in refusal(saved(tmp_path / "data.jsonl", content))


def test_columns_that_nobody_wants_may_hold_anything(tmp_path) -> None:
    rows = [{"text": "a", "score": 1, "more": number} for number in (1, "x", [1], None, {"a": 1})]
    path = saved(tmp_path / "data.jsonl", "\n".join(map(json.dumps, rows)))
    assert columns(path, wanted(text=text, score=number)) == {"text": ["a"] * 5, "score": [1.0] * 5}


def test_rows_that_were_rejected_in_prodigy_are_refused(tmp_path) -> None:
    rows = [{"text": "a", "label": "x", "answer": one, "_task_hash": 1} for one in ("accept", "reject", "ignore")]
    path = saved(tmp_path / "data.jsonl", "\n".join(map(json.dumps, rows)))
    assert refusal(path) == (
        "2 of 3 rows of data.jsonl were not accepted in Prodigy, the first is line 2 ('answer' is 'reject'); keep the "
        """others, as by jq -c 'select(.answer == "accept")' FILE"""
    )
    saved(path, json.dumps(rows[0]))
    assert columns(path)["text"] == ["a"]
    saved(path, json.dumps({"text": "a", "label": "x", "answer": "reject"}))
    assert columns(path)["text"] == ["a"], "a column of another program"
