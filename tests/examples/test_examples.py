"""The main job's own errors teach, and its data never leaks from training into testing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.paths import ROOT

sys.path.insert(0, str(ROOT / "examples"))

pytest.importorskip("pandas")
pytest.importorskip("datasets")

from few_shot_arguments import FewShotArguments, UsageError, parse_arguments
from few_shot_data import load_sentences, split_sentences
from few_shot_training import adapter_config, add_adapter, check_targets, load_base_model

from deep_lora import DeepLoraLayer


def csv(tmp_path: Path, rows: int = 40, **columns) -> str:
    table = {"text": [f"sentence number {i}" for i in range(rows)], "label": [i % 2 for i in range(rows)], **columns}
    lines = [",".join(table)] + [",".join(str(values[i]) for values in table.values()) for i in range(rows)]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf8")
    return str(path)


def small(dataset: str, **settings) -> FewShotArguments:
    sizes = {"num_train_samples": 8, "num_validation_samples": 8, "num_test_samples": 8}
    return FewShotArguments(dataset=dataset, **{**sizes, **settings})


def test_training_validation_and_test_sentences_never_overlap_and_training_is_balanced(tmp_path) -> None:
    arguments = small(csv(tmp_path), seeds=[0, 1])
    splits = split_sentences(load_sentences(arguments), arguments)
    parts = [set(splits.validation.texts), set(splits.test.texts)]
    assert not parts[0] & parts[1] and [len(part) for part in parts] == [8, 8]
    for sentences in splits.train.values():
        assert not set(sentences.texts) & (parts[0] | parts[1])
        assert np.bincount(sentences.labels).tolist() == [4, 4]


def test_repeated_and_empty_sentences_are_dropped(tmp_path) -> None:
    texts = ["same", "same", " "] + [f"sentence {i}" for i in range(37)]
    assert len(load_sentences(small(csv(tmp_path, text=texts))).texts) == 38


def test_words_for_what_is_missing_are_classes_and_sentences_among_texts_and_empty_among_numbers(tmp_path) -> None:
    texts = ["NA", "null"] + [f"sentence {i}" for i in range(38)]
    sentences = load_sentences(small(csv(tmp_path, text=texts, label=["None", "hate"] * 20)))
    assert sentences.class_names == ["None", "hate"] and sentences.texts == texts
    with pytest.raises(UsageError, match="--label_column label has 1 empty entries; every sentence needs a class"):
        load_sentences(small(csv(tmp_path, label=[0, 1] * 19 + [1, "NA"])))
    with pytest.raises(UsageError, match="--label_column label has 1 empty entries"):
        load_sentences(small(csv(tmp_path, label=["a", "b"] * 19 + ["a", ""])))


@pytest.mark.parametrize(
    "settings,columns,message",
    [
        ({"text_column": "review"}, {}, "has no column.*review.*--text_column"),
        ({"text_column": "label", "label_column": "text"}, {}, "every entry must be a string"),
        ({"num_test_samples": 500}, {}, "40 distinct sentences; 516 are needed"),
        ({}, {"label": [0.5] * 40}, "holds real numbers; classes must be integers or strings"),
        ({}, {"label": ["one"] * 40}, "holds 1 class; at least 2 are needed"),
        ({"num_train_samples": 1}, {}, "cannot cover 2 classes"),
    ],
)
def test_unusable_data_is_refused_with_a_way_out(settings, columns, message, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        arguments = small(csv(tmp_path, **columns), **settings)
        split_sentences(load_sentences(arguments), arguments)


def test_a_missing_file_and_an_unknown_method_are_named(tmp_path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        load_sentences(small(str(tmp_path / "none.csv")))
    with pytest.raises(UsageError, match=r"\['dora'\]; choose one or more of: deep_lora, lora"):
        FewShotArguments(methods=["dora"])
    with pytest.raises(UsageError, match="--rank got 0"):
        parse_arguments(["--rank", "0"])
    with pytest.raises(UsageError, match=r"--seeds \[-1\] and --split_seed 0 must not be negative"):
        FewShotArguments(seeds=[-1])
    with pytest.raises(UsageError, match="--smoke brings a model and sentences of its own; leave out --model and"):
        FewShotArguments(smoke=True, dataset="reviews.csv")


def test_a_pattern_without_a_match_and_a_bad_rank_are_explained() -> None:
    import torch

    with pytest.raises(UsageError, match="matches no linear layer.*pass a pattern"):
        check_targets(torch.nn.Sequential(torch.nn.Linear(2, 2)), "nothing")
    arguments = FewShotArguments()
    arguments.rank = 0
    with pytest.raises(UsageError, match="deep_lora cannot be set up"):
        adapter_config("deep_lora", arguments)


def test_a_settings_file_is_read_and_the_command_line_wins(tmp_path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("rank: 4\nmax_steps: 7\n", encoding="utf8")
    arguments = parse_arguments([str(path), "--rank", "5"])
    assert (arguments.rank, arguments.max_steps) == (5, 7)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.yaml", None, "cannot read the settings in .*none.yaml"),
        ("broken.json", "{", "cannot read the settings in .*broken.json"),
        ("list.yaml", "- 1\n", "holds a list; it must map names of arguments to values"),
        ("ranks.yaml", "ranks: 4\n", r"names unknown arguments \['ranks'\]; known are \["),
    ],
)
def test_a_settings_file_that_cannot_be_used_is_refused(name, content, message, tmp_path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf8")
    with pytest.raises(UsageError, match=message):
        parse_arguments([str(tmp_path / name)])


def test_a_layer_that_is_adapted_and_saved_whole_is_explained_and_the_printed_pattern_leaves_it_out() -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    sizes = DistilBertConfig(vocab_size=41, dim=16, hidden_dim=24, n_layers=2, n_heads=2)
    config = adapter_config("deep_lora", FewShotArguments(target_modules="all-linear"))
    with pytest.raises(UsageError, match="does not fit DistilBertFor.*pattern to --target_modules that leaves"):
        add_adapter(DistilBertForSequenceClassification(sizes), config)
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf8")
    pattern = re.search(r"distilbert-base-uncased --target_modules '(.*)'", page)[1]
    config = adapter_config("deep_lora", FewShotArguments(target_modules=pattern))
    model = add_adapter(DistilBertForSequenceClassification(sizes), config)
    assert sum(isinstance(module, DeepLoraLayer) for module in model.modules()) == 12


def test_data_and_models_that_cannot_be_loaded_are_named(tmp_path) -> None:
    (tmp_path / "broken.jsonl").write_text("{", encoding="utf8")
    with pytest.raises(UsageError, match="the data set .*broken.jsonl cannot be loaded: "):
        load_sentences(small(str(tmp_path / "broken.jsonl")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="--dataset .*empty cannot be loaded: "):
        load_sentences(small(str(tmp_path / "empty")))
    with pytest.raises(UsageError, match="--model .*nowhere cannot be loaded as a sequence classifier: "):
        load_base_model(str(tmp_path / "nowhere"), ["bad", "good"])


def test_a_prediction_that_may_depend_on_deep_lora_is_not_written(tmp_path, monkeypatch) -> None:
    import predict_with_peft

    assert "deep_lora" in sys.modules
    (tmp_path / "texts.json").write_text('["a text"]', encoding="utf8")
    for name in ("load_adapted", "compute_logits"):
        monkeypatch.setattr(predict_with_peft, name, lambda *_: None)
    monkeypatch.setattr(predict_with_peft.AutoTokenizer, "from_pretrained", lambda *_: None)
    words = ["--model", "m", "--adapter", "a", "--texts", tmp_path / "texts.json", "--output", tmp_path / "logits.npy"]
    monkeypatch.setattr(sys, "argv", ["predict_with_peft.py", *map(str, words)])
    with pytest.raises(RuntimeError, match="deep_lora was imported in this process; the prediction must not depend"):
        predict_with_peft.main()
    assert not (tmp_path / "logits.npy").exists()
