"""Texts that a model generates at evaluation are compared with those that were wanted."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tests.training import tiny
from tests.training.tiny import QUICK
from tests.training.two_processes import command_of_two
from training.tasks.text_metrics import exact_match, text_scorer
from training.trainer.generating import Generation, decode

GENERATING = ["--task", "seq2seq", "--target_column", "target", "--predict_with_generate"]


def pairs(tmp_path):
    """Each text with its second word as the target."""
    texts = open(tiny.save_csv(tmp_path / "plain.csv"), encoding="utf8").read().splitlines()[1:]
    return tiny.save_csv(tmp_path / "pairs.csv", target=[text.split()[1] for text in texts])


def longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """By the recursion of its definition."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return longest_common_subsequence(first[:-1], second[:-1]) + 1
    return max(longest_common_subsequence(first[:-1], second), longest_common_subsequence(first, second[:-1]))


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence() -> None:
    pytest.importorskip("rouge_score.rouge_scorer")
    texts = ["the film was very good", "a dull plot", "nothing in common"]
    wanted = ["the plot was good", "a dull plot", "another text"]
    expected = []
    for text, reference in zip(texts, wanted, strict=True):
        common = longest_common_subsequence(text.split(), reference.split())
        expected.append(2 * common / (len(text.split()) + len(reference.split())))
    assert text_scorer()(texts, wanted)["rougeL"] == pytest.approx(np.mean(expected))


def test_bleu_is_the_geometric_mean_of_precisions_with_a_penalty_for_short_texts() -> None:
    pytest.importorskip("sacrebleu")
    texts, wanted = ["a b c d e f"], ["a b c d e g h i"]
    precisions = [5 / 6, 4 / 5, 3 / 4, 2 / 3]
    expected = 100 * np.exp(np.mean(np.log(precisions)) + 1 - 8 / 6)
    assert text_scorer()(texts, wanted)["bleu"] == pytest.approx(expected)


def test_without_libraries_exact_match_is_left_and_it_is_said_once(monkeypatch) -> None:
    for name in ("rouge_score", "rouge_score.rouge_scorer", "sacrebleu"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.warns(
        UserWarning, match="without rougeL .pip install rouge-score. and bleu .pip install sacrebleu"
    ) as w:
        score = text_scorer()
    assert len(w) == 1 and score(["a", "b "], ["a", "c"]) == {"exact_match": 0.5} and exact_match([], []) == 0


def test_scripts_of_evaluate_are_taken_where_they_load_and_their_libraries_elsewhere(monkeypatch) -> None:
    pytest.importorskip("rouge_score.rouge_scorer")
    pytest.importorskip("sacrebleu")

    class Rouge:
        def compute(self, predictions, references, rouge_types, use_aggregator):
            assert rouge_types == ["rougeL"] and not use_aggregator
            return {"rougeL": [0.25, 0.75]}

    def load(name):
        if name == "rouge":
            return Rouge()
        raise FileNotFoundError(name)

    monkeypatch.setitem(sys.modules, "evaluate", types.SimpleNamespace(load=load))
    with pytest.warns(UserWarning, match="evaluate cannot load 'sacrebleu' .FileNotFoundError.; its library is used"):
        score = text_scorer("evaluate")
    found = score(["a b c d", "e f g h"], ["a b c d", "e f g h"])
    assert found == pytest.approx({"rougeL": 0.5, "bleu": 100.0, "exact_match": 1.0})


@pytest.mark.parametrize("beams", ["1", "2"])
def test_metrics_are_of_the_texts_that_the_saved_model_writes(beams, t5, finetune, tmp_path) -> None:
    pytest.importorskip("rouge_score.rouge_scorer")
    pytest.importorskip("sacrebleu")
    words = [*GENERATING, "--num_beams", beams, "--max_new_tokens", "4", "--per_device_eval_batch_size", "3"]
    data = pairs(tmp_path)
    status, printed = finetune(t5, data, *words, "--validation_data", data)
    assert status == 0, printed
    metrics = tiny.results(tmp_path / "run")["metrics"]["validation"]
    assert {"rougeL", "bleu", "exact_match", "perplexity", "token_accuracy"} <= set(metrics)
    from peft import PeftModel

    model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(t5), tmp_path / "run" / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(t5)
    rows = [line.split(",") for line in data.read_text().splitlines()[1:]]
    inputs = tokenizer([row[0] for row in rows], padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        written = model.generate(**inputs, num_beams=int(beams), max_new_tokens=4, do_sample=False)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    expected = text_scorer()([text.strip() for text in texts], [row[-1] for row in rows])
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_a_model_that_learned_what_to_write_is_seen_to(t5, finetune, tmp_path) -> None:
    """One target for all texts, so that a tiny model learns it; without training it writes something else."""
    data = tiny.save_csv(tmp_path / "same.csv", target=["great film"] * 40)
    words = [*GENERATING, "--max_new_tokens", "4", "--learning_rate", "0.015", "--adapter", "lora", "--rank", "8"]
    status, printed = finetune(t5, data, *words, "--max_steps", "80", "--lora_alpha", "32")
    assert status == 0, printed
    metrics = tiny.results(tmp_path / "run")["metrics"]["validation"]
    assert metrics["exact_match"] == 1


def test_rows_filled_up_for_other_batches_are_read_without_the_filling(t5) -> None:
    tokenizer = AutoTokenizer.from_pretrained(t5)
    good, end = tokenizer.convert_tokens_to_ids(["good", "</s>"])
    tokens = np.array([[good, good, end, -100, -100], [good, end, 0, 0, -100]])
    assert decode(tokens, tokenizer) == ["good good", "good"]
    generation = Generation({}, lambda texts, wanted: {"exact_match": exact_match(texts, wanted)})
    prediction = types.SimpleNamespace(predictions=(np.zeros((2, 3)), tokens), label_ids=tokens[:, :3])
    score = generation.scorer(tokenizer, lambda one: {"rows": len(one.predictions)})
    assert score(prediction) == {"rows": 2, "exact_match": 1.0}


@pytest.mark.slow
def test_two_processes_generate_and_score_what_one_does(t5, finetune, tmp_path) -> None:
    """21 rows to validate on, so that the last batches are uneven, and texts of different lengths."""
    data = pairs(tmp_path)
    rows = data.read_text().splitlines()
    (tmp_path / "validation.csv").write_text("\n".join(rows[:1] + [row + " film" * (i % 3) for i, row in
                                                                   enumerate(rows[1:22])]))  # fmt: skip
    options = [*GENERATING, "--max_new_tokens", "6", "--validation_data", str(tmp_path / "validation.csv")]
    options += ["--init_batches", "0", "--path_length", "0", "--learning_rate", "1e-4"]
    options += ["--per_device_eval_batch_size", "4"]
    status, printed = finetune(t5, data, *options, "--per_device_train_batch_size", "8", output=tmp_path / "one")
    assert status == 0, printed
    where = ["--model", str(t5), "--dataset", str(data), "--output_dir", str(tmp_path / "two")]
    command_of_two(["finetune", *QUICK, *where, *options], tmp_path)
    one, two = (tiny.results(tmp_path / name)["metrics"]["validation"] for name in ("one", "two"))
    names = ("rougeL", "bleu", "exact_match", "token_loss") if "rougeL" in one else ("exact_match", "token_loss")
    assert {name: two[name] for name in names} == pytest.approx({name: one[name] for name in names}, rel=1e-4)


@pytest.mark.parametrize(
    "words,message",
    [
        (["--task", "causal_lm", "--predict_with_generate"], "--predict_with_generate needs --task seq2seq"),
        ([*GENERATING, "--num_beams", "0"], "--num_beams got 0; it must be at least 1"),
        ([*GENERATING, "--max_new_tokens", "0"], "--max_new_tokens got 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_generated_is_refused(words, message, t5, reviews, finetune) -> None:
    status, printed = finetune(t5, reviews, *words)
    assert status == 2 and message in printed
