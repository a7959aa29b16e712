"""Words with their tags in lines: which characters separate the fields."""

from __future__ import annotations

import pytest

from tests.training.reading.reading import columns, refusal, saved, wanted
from training.reading.lists import tags, words

TAGGED = wanted(text=words, tags=tags)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("In IN\tO\nRome  NNP\tB-LOC\nis VB O\n", [["In", "Rome", "is"]]),
        ("In\tO\t\nRome\tB-LOC\t\n", [["In", "Rome"]]),
        ("In O\nNew York\tB-LOC\n", None),
        ("New York\tB-LOC\nis\tO\n", [["New York", "is"]]),
        ("0 800\tB\n1 234\tO\n", None),
        ("In IN\tO\nRome NNP\tB-LOC\n", None),
        ("In\t\tO\nRome\tNNP\tB-LOC\n", [["In", "Rome"]]),
        ("10\u00a0000 B\nmen O\n", [["10\u00a0000", "men"]]),
    ],
    ids=["spaces and tabs", "a tab at the end", "one line", "a space", "all", "both", "nothing", "unbreakable"],
)
def test_tabs_and_spaces_separate_in_all_lines_alike_or_are_refused(content, expected, tmp_path) -> None:
    path = saved(tmp_path / "data.conll", content)
    if expected is None:
        assert "of data.conll " in refusal(path, TAGGED)
    else:
        assert columns(path, TAGGED)["text"] == expected


def test_what_tabs_and_spaces_make_other_words_of_is_named(tmp_path) -> None:
    path = saved(tmp_path / "data.conll", "# id 1\nIn IN\tO\nRome NNP\tB-LOC\n")
    assert refusal(path, TAGGED) == (
        "line 2 of data.conll has the word 'In IN' if tabs separate its fields, and 'In' if spaces do too, and all "
        "lines fit both; separate the fields of all lines by tabs, or by spaces, alone"
    )
