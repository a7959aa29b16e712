"""Files with a word and its tags in each line, and an empty line after each sentence, as the CoNLL tasks had them."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
        lines: of the file; tabs separate their fields if there are any, else spaces.

    Raises:
        UsageError: a line has no tag, or another number of fields than the first one.
    """
    found = Sentences([], [], [])
    width, inside = 0, False
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if not line.strip() or fields[0] == "-DOCSTART-" or (not inside and _COMMENT.match(line)):
            inside = False
            continue
        width = width or len(fields)
        if width == _WIDTH_OF_CONLLU and fields[0].isdecimal():
            raise UsageError(
                f"line {number} of {path} is CoNLL-U, whose first field is a number and not the word; keep the fields "
                "of word and tag, as by grep -v '^#' FILE | cut -f 2,4"
            )
        if len(fields) < 2 or len(fields) != width or not (fields[0].strip() and fields[-1].strip()):
            raise UsageError(
                f"line {number} of {path} has {len(fields)} fields, and the first line {width}; each needs a word, its "
                "tag as the last field, and as many fields as the others"
            )
        if not inside:
            found.words.append([])
            found.tags.append([])
            found.lines.append(number)
        inside = True
        found.words[-1].append(fields[0].strip())
        found.tags[-1].append(fields[-1].strip())
    return found
