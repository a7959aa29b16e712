"""Words and tags: lists, lists that were written as texts, texts with spaces, or lines."""

from __future__ import annotations

import json

import pytest

from tests.training.reading.reading import columns, refusal, saved, wanted
from training.reading.lists import tags, words

TAGGED = wanted(text=words, tags=tags)
EXPECTED = {"text": [["In", "Rome"], ["a"]], "tags": [["O", "B-LOC"], ["O"]]}


def test_sentences_in_brackets_are_words(tmp_path) -> None:
    texts = ['( " a b " )', "[CLS] a [SEP]", '("Hi," he said)', "[ 1 ] a", "{ x }"]
    path = saved(tmp_path / "data.jsonl", "\n".join(json.dumps({"text": one}) for one in texts))
    assert columns(path, wanted(text=words))["text"] == [one.split() for one in texts]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.csv", "text,tags\nIn Rome,O B-LOC\na,O\n"),
        ("data.csv", "text,tags\n\"['In', 'Rome']\",\"['O', 'B-LOC']\"\n['a'],['O']\n"),
        ("data.csv", 'text,tags\nIn Rome,"[""O"", ""B-LOC""]"\na,"[""O""]"\n'),
        ("data.csv", "text,tags\n\"('In', 'Rome')\",\"('O', 'B-LOC')\"\n\"('a',)\",\"('O',)\"\n"),
        ("data.jsonl", '{"text": ["In", "Rome"], "tags": ["O", "B-LOC"]}\n{"text": "a", "tags": "O"}'),
        ("data.conll", "-DOCSTART- -X- O\n\n# sent_id = 1\nIn IN O\nRome NNP B-LOC\n\n\n# id 2\na DT O\n"),
        ("data.txt", "In\tO\nRome\tB-LOC\n\na\tO"),
    ],
)
def test_words_and_tags_are_lists_lists_as_text_texts_or_lines(name, content, tmp_path) -> None:
    assert columns(saved(tmp_path / name, content), TAGGED) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "data.csv",
            "text,tags\nIn Rome,['O' 'B-LOC']\na,['O']\n",
            "holds \"['O' 'B-LOC']\" in line 2 of data.csv; it looks",
        ),
        (
            "data.csv",
            "text,tags\nIn Rome,\"['O', 'B-LOC']\"\na,O\n",
            "it looks like a list, but is not one, or others are not",
        ),
        (
            "data.csv",
            "text,tags\nIn Rome,O\n",
            "line 2 of data.csv has 2 in 'text' and 1 in 'tags'; each word needs one tag",
        ),
        (
            "data.jsonl",
            '{"text": "a b", "tags": ["O", null]}',
            "holds None in line 1 of data.jsonl; each entry of a list must",
        ),
        (
            "data.jsonl",
            '{"text": "a", "tags": 7}',
            "holds 7 in line 1 of data.jsonl; write lists of texts, or texts separated",
        ),
        (
            "data.conll",
            "In O\nRome\n",
            "line 2 of data.conll has 1 fields, and the first line 2; each needs a word, its",
        ),
        (
            "data.conll",
            "# sent_id = 1\n" + "\t".join(["1", "In", "in", "ADP", "IN", "_", "2", "case", "_", "SpaceAfter=No"]),
            "line 2 of data.conll is CoNLL-U, whose first field is a number and not the word; keep the fields of word",
        ),
    ],
)
def test_what_are_no_words_and_tags_is_named(name, content, told, tmp_path) -> None:
    assert told in refusal(saved(tmp_path / name, content), TAGGED)
