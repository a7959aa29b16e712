"""The main job's data never leak from training into testing, and a wrong export is told."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from peft import get_peft_model
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from deep_lora import DeepLoraConfig, DeepLoraLayer
from tests.examples import cases
from tests.paths import ROOT

few_shot_text = cases.load("few_shot_text")


def small(file, **settings):
    sizes = {"num_train_samples": 8, "num_validation_samples": 8, "num_test_samples": 8}
    return few_shot_text.FewShotArguments(dataset=str(file), **(sizes | settings))


def csv(tmp_path, texts, labels):
    rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf8")
    return tmp_path / "data.csv"


def test_training_validation_and_test_sentences_never_overlap_and_training_is_balanced(tmp_path) -> None:
    parts = few_shot_text.load_sentences(small(cases.sentences(tmp_path / "data.csv", 40), seeds=[0, 1]))
    shared = [set(parts[name]["text"]) for name in ("test", "validation")]
    assert not shared[0] & shared[1] and [len(part) for part in shared] == [8, 8]
    for name in ("train 0", "train 1"):
        assert not set(parts[name]["text"]) & (shared[0] | shared[1])
        assert np.bincount(parts[name]["labels"]).tolist() == [4, 4]
    assert set(parts["train 0"]["text"]) != set(parts["train 1"]["text"])


def test_classes_that_do_not_divide_the_number_of_sentences_differ_by_one(tmp_path) -> None:
    file = csv(tmp_path, [f"sentence {i}" for i in range(60)], ["a", "b", "c"] * 20)
    train = few_shot_text.load_sentences(small(file, seeds=[5]))["train 5"]
    assert sorted(np.bincount(train["labels"]).tolist()) == [2, 3, 3]


def everything(file, count: int) -> dict[str, int]:
    """All sentences that are kept, with the numbers of their classes."""
    args = few_shot_text.FewShotArguments(
        dataset=str(file), num_test_samples=count - 8, num_validation_samples=8, num_train_samples=0, seeds=[]
    )
    parts = few_shot_text.load_sentences(args).values()
    return {text: label for part in parts for text, label in zip(part["text"], part["labels"], strict=True)}


def test_repeated_and_empty_sentences_are_dropped(tmp_path) -> None:
    texts = ["same", " same ", " "] + [f"sentence {i}" for i in range(37)]
    found = everything(csv(tmp_path, texts, [0, 1] * 20), 38)
    assert set(found) == {"same", *texts[3:]}


def test_words_for_what_is_missing_are_classes_and_sentences(tmp_path) -> None:
    texts = ["NA", "null"] + [f"sentence {i}" for i in range(38)]
    found = everything(csv(tmp_path, texts, ["None", "hate"] * 20), 40)
    assert list(found) and found == dict(zip(texts, [0, 1] * 20, strict=True))


def test_too_few_sentences_are_refused(tmp_path) -> None:
    with pytest.raises(SystemExit, match="20 distinct sentences; .* are needed: lower --num_test_samples"):
        few_shot_text.load_sentences(small(cases.sentences(tmp_path / "data.csv", 20), seeds=[0]))


def test_an_option_of_trainer_is_an_option_and_short_lowers_what_costs_time() -> None:
    args, training = few_shot_text.parse_arguments(["--rank", "4", "--max_steps", "7", "--weight_decay", "0.1"])
    assert (args.rank, training.max_steps, training.weight_decay, args.seeds) == (4, 7, 0.1, [0, 1])
    args, training = few_shot_text.parse_arguments(["--short"])
    assert (args.seeds, training.max_steps, args.num_test_samples) == ([0], 10, 100)


def test_both_methods_are_tested_and_the_export_predicts_the_same(alone) -> None:
    found = json.loads((alone("few_shot_text") / "results.json").read_text())
    assert [run["method"] for run in found["runs"]] == ["deep_lora", "lora"]
    assert all(0 <= run["test_accuracy"] <= 1 and run["rate"] == 1e-3 for run in found["runs"])
    check = found["lora_export"]
    assert check["agrees"] and check["same_class"] == check["sentences"] == 100
    assert found["settings"]["rank"] == 8 and found["versions"]["torch"]


def test_an_export_that_predicts_anything_else_ends_with_status_1(words, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(few_shot_text, "check_export", lambda *_: {"agrees": False})
    arguments = ["--max_steps", "2", "--output_dir", tmp_path]
    assert cases.run(few_shot_text, monkeypatch, *words["few_shot_text"], *arguments) == 1


def test_the_pattern_on_the_page_leaves_out_the_head_of_distilbert() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf8")
    pattern = re.search(r"distilbert-base-uncased .*--target_modules '(.*)'", page)[1]
    sizes = DistilBertConfig(vocab_size=41, dim=16, hidden_dim=24, n_layers=2, n_heads=2)
    config = DeepLoraConfig(task_type="SEQ_CLS", target_modules=pattern)
    model = get_peft_model(DistilBertForSequenceClassification(sizes), config)
    assert sum(isinstance(module, DeepLoraLayer) for module in model.modules()) == 12
