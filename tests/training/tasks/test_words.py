"""Words are the tokens of the running text, and each has its tag; what --max_length cuts off is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from datasets import Dataset

from tests.training.tasks.byte_level import byte_level
from training.errors import UsageError
from training.settings.data import TextDataArguments
from training.tasks.token_classification import token_classification
from training.tasks.words import encode_words

WORDS = [["the", "film", "was", "good"], ["New York", "", "film?"]]


@pytest.mark.parametrize("begin", [False, True])
def test_words_keep_the_space_that_is_a_part_of_their_token(begin) -> None:
    tokenizer = byte_level(begin)
    encoded, first = encode_words(WORDS, tokenizer, 64)
    assert encoded["input_ids"] == tokenizer([" ".join(words) for words in WORDS])["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])[int(begin) :]
    assert tokens == ["the", "Ġfilm", "Ġwas", "Ġgood"] and first[0][int(begin) :] == [0, 1, 2, 3]
    assert [word for word in first[1] if word is not None] == [0, 2], "an empty word has no token"


def test_words_that_are_cut_off_are_counted() -> None:
    data = Dataset.from_dict(
        {"text": [["the", "film", "was", "good"], ["a", "film"]], "tags": [["A", "B"] * 2, ["A", "B"]]}
    )
    task = token_classification({"train": data}, TextDataArguments(max_length=3))
    with pytest.warns(
        UserWarning, match="1 of 2 train texts are longer than --max_length; 1 words are cut off, at most 1"
    ):
        encoded = task.encode({"train": data}, byte_level())["train"]
    assert encoded["labels"][:] == [[0, 1, 0], [0, 1]] and "cut" not in encoded.column_names


def test_sentences_that_are_taken_apart_are_told() -> None:
    rows = {"text": [["the"], ["film"]] * 6, "tags": [["A"], ["B"]] * 6}
    with pytest.warns(UserWarning, match="each of the 12 train rows is one word; if they are the words of sentences"):
        token_classification({"train": Dataset.from_dict(rows)}, TextDataArguments())


def test_a_tokenizer_that_does_not_know_where_its_tokens_stand_is_refused() -> None:
    with pytest.raises(
        UsageError, match="does not tell which word a token belongs to; tags for words need a model with"
    ):
        encode_words(WORDS, SimpleNamespace(is_fast=False), 64)
