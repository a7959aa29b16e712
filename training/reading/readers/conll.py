"""Files with a word and its tags in each line, and an empty line after each sentence, as the CoNLL tasks had them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from training.errors import UsageError

_COMMENT = re.compile(r"# *(id\b|\w+ *=)")  # before a sentence: # id 7, # sent_id = 7
_WIDTH_OF_CONLLU = 10


class Sentences(NamedTuple):
    """Words and tags of each sentence, and the line in which it begins."""

    words: list[list[str]]
    tags: list[list[str]]
    lines: list[int]


def read_conll(path: Path, lines: Iterator[str]) -> Sentences:
    """Read the first field of each line as a word and the last one as its tag, without -DOCSTART- and comments.

    Args:
        path: for errors.
        lines: of the file; tabs separate their fields if there are any, spaces do too if not all lines fit otherwise.

    Raises:
        UsageError: a line has no tag, or another number of fields than the first one, or there are two ways to separate
            the fields, which give other words.
    """
    held = list(lines)
    if not any("\t" in line for line in held):
        return _sentences(path, held, _by_spaces)
    try:
        found = _sentences(path, held, _by_tabs)
    except UsageError as error:
        try:
            return _sentences(path, held, _by_spaces)
        except UsageError:
            raise error from None
    try:
        others = _sentences(path, held, _by_spaces)
    except UsageError:
        return found
    _refuse_other_words(path, found, others)
    return found


def _by_tabs(line: str) -> list[str]:
    return [field.strip() for field in line.split("\t")]


def _by_spaces(line: str) -> list[str]:
    return re.split("[ \t]+", line.strip(" \t"))  # not at others, such as the unbreakable one in 10 000


def _refuse_other_words(path: Path, found: Sentences, others: Sentences) -> None:
    """Raise if spaces, beside tabs, separate other words and tags."""
    for line, *held in zip(found.lines, found.words, others.words, found.tags, others.tags, strict=True):
        words, tags = zip(*held[:2], strict=True), zip(*held[2:], strict=True)
        for place, ((word, other), (tag, other_tag)) in enumerate(zip(words, tags, strict=True)):
            if word != other or tag != other_tag:
                what, one, two = ("word", word, other) if word != other else ("tag", tag, other_tag)
                raise UsageError(
                    f"line {line + place} of {path} has the {what} {one!r} if tabs separate its fields, and {two!r} if "
                    "spaces do too, and all lines fit both; separate the fields of all lines by tabs, or by spaces, "
                    "alone"
                )


def _sentences(path: Path, lines: Sequence[str], split: Callable[[str], list[str]]) -> Sentences:
    found = Sentences([], [], [])
    width, inside = 0, False
    for number, line in enumerate(lines, start=1):
        fields = split(line.rstrip("\r\n"))
        if not line.strip() or fields[0] == "-DOCSTART-" or (not inside and _COMMENT.match(line)):
            inside = False
            continue
        width = width or len(fields)
        if width == _WIDTH_OF_CONLLU and fields[0].isdecimal():
            raise UsageError(
                f"line {number} of {path} is CoNLL-U, whose first field is a number and not the word; keep the fields "
                "of word and tag, as by grep -v '^#' FILE | cut -f 2,4"
            )
        if len(fields) < 2 or len(fields) != width or not (fields[0] and fields[-1]):
            raise UsageError(
                f"line {number} of {path} has {len(fields)} fields, and the first line {width}; each needs a word, its "
                "tag as the last field, and as many fields as the others"
            )
        if not inside:
            found.words.append([])
            found.tags.append([])
            found.lines.append(number)
        inside = True
        found.words[-1].append(fields[0])
        found.tags[-1].append(fields[-1])
    return found
