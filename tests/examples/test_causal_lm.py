"""The causal example's data never leak, its loss is on the target alone, and a wrong export is told."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from tests.examples import cases

causal_lm = cases.load("causal_lm")

SYNSETS = """  1 This software and database is being provided to you
00001740 03 n 02 entity 0 living_thing 0 001 ~ 00001930 n 0000 | that which exists; "an entity"
00002137 29 v 01 breathe 0 001 @ 00001740 v 0000 | draw air; and let it out
"""


def test_words_and_glosses_are_read_without_license_and_examples(tmp_path) -> None:
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(SYNSETS if part == "noun" else "", encoding="latin-1")
    assert causal_lm.load_pairs(causal_lm.CausalArguments(wordnet=str(tmp_path))) == [
        ("entity, living thing (noun)", "that which exists"),
        ("breathe (verb)", "draw air; and let it out"),
    ]


def test_no_text_is_in_both_parts_even_where_it_has_several_targets() -> None:
    pairs = [(f"text {number % 20}", f"target {number}") for number in range(60)]
    train, heldout = causal_lm.split_pairs(pairs, 30, 5, seed=0)
    assert len(train) == 30 and len(heldout) == 5
    assert not {text for text, _ in train} & {text for text, _ in heldout}
    assert causal_lm.split_pairs(pairs, 30, 5, seed=0) == (train, heldout)


def test_the_loss_is_on_the_target_and_its_end_alone(tmp_path, monkeypatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(cases.language_model(tmp_path))
    sample = causal_lm.encode(("red fox 1", "a fox that is red"), tokenizer)
    kept = [token for token in sample["labels"] if token != -100]
    assert tokenizer.decode(kept[:-1]) == "a fox that is red" and kept[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(sample["input_ids"][: -len(kept)], skip_special_tokens=True) == "red fox 1 :"
    monkeypatch.setattr(causal_lm, "MAX_LENGTH", 10)
    short = causal_lm.encode(("red fox 1 " * 9, "a fox that is red and more"), tokenizer)
    assert len(short["input_ids"]) == len(short["labels"]) == 10 and short["labels"][5:] == short["input_ids"][5:]
    assert short["labels"][:5] == [-100] * 5


def test_training_changes_the_model_and_its_export_computes_the_same(alone) -> None:
    found = json.loads((alone("causal_lm") / "results.json").read_text())
    assert found["export_difference"] <= causal_lm.TOLERANCE
    assert found["heldout_loss"]["after"] != found["heldout_loss"]["before"]


@pytest.mark.parametrize("bits", [[], ["--load_in_4bit"]])
def test_a_csv_file_of_ones_own_is_learned(bits, words, tmp_path, monkeypatch, capsys) -> None:
    if bits:
        pytest.importorskip("bitsandbytes")
    rows = [f'"name[Inn {number}], area[city]",Inn {number} is in the city' for number in range(60)]
    (tmp_path / "own.csv").write_text("\n".join(["mr,ref", *rows]))
    own = ["--train_file", tmp_path / "own.csv", "--text_column", "mr", "--target_column", "ref"]
    assert cases.run(causal_lm, monkeypatch, *words["causal_lm"], *own, *bits, "--output_dir", tmp_path / "run") == 0
    assert capsys.readouterr().out.count("held out Inn") == 4


def test_an_export_that_computes_anything_else_ends_with_status_1(words, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(causal_lm, "export_difference", lambda *_: 0.01)
    assert cases.run(causal_lm, monkeypatch, *words["causal_lm"], "--output_dir", tmp_path) == 1
