"""Any number of labels for each text: lists and columns of 0 and 1 are the same, and predictions are probabilities."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EvalPrediction

from tests.training import tiny
from tests.training.reading.reading import columns, refusal, saved, wanted
from training.cli import main
from training.errors import UsageError
from training.reading.lists import labels, truth
from training.reading.tables import of_data_set, typed
from training.settings.data import TextDataArguments
from training.tasks.multilabel import multilabel

NAMES = ("cast", "plot", "sound")
LABELS, TRUTH = wanted(label=labels), wanted(label=truth)


def held(row: int) -> list[str]:
    return [name for place, name in enumerate(NAMES) if row >> place & 1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.jsonl", '{"label": ["a", "b c"]}\n{"label": []}\n{"label": ["b c"]}'),
        ("data.jsonl", '{"label": "a, b c"}\n{"label": null}\n{"label": "b c"}'),
        ("data.csv", 'text,label\nx,"a,b c"\ny,\nz,b c\n'),
        ("data.csv", "text,label\nx,a;b c\ny,\nz,b c\n"),
        ("data.csv", "text,label\nx,a | b c\ny,\nz,b c\n"),
        ("data.csv", "text,label\nx,\"['a', 'b c']\"\ny,[]\nz,['b c']\n"),
        ("data.csv", "text,label\nx,\"('a', 'b c')\"\ny,()\nz,\"('b c',)\"\n"),
        ("data.csv", 'text,label\nx,"a\nb c"\ny,\nz,b c\n'),
    ],
)
def test_labels_are_lists_lists_as_text_or_texts_with_commas(name, content, tmp_path) -> None:
    assert columns(saved(tmp_path / name, content), LABELS)["label"] == [["a", "b c"], [], ["b c"]]


@pytest.mark.parametrize(
    "several",
    ["['a' 'b']", "[0 1]", "[ 0 10]", "{'a', 'b'}", "{a,b}", '{"choices": ["a", "b"]}', "('a', 'b'", "[a, b"],
    ids=["numpy", "numbers", "aligned", "set", "postgres", "label studio", "cut", "cut plain"],
)
@pytest.mark.parametrize("single", ["['a']", "[0]", "a"])
def test_lists_that_cannot_be_read_are_no_labels(several, single, tmp_path) -> None:
    rows = [{"label": several}, {"label": single}]
    path = saved(tmp_path / "data.jsonl", "\n".join(map(json.dumps, rows)))
    assert "in line 1 of data.jsonl; it looks like a list, but is not one, or others are not: write" in refusal(
        path, LABELS
    )


def test_numbers_of_labels_have_the_names_of_the_data_set() -> None:
    features = Features({"label": Sequence(ClassLabel(names=["a", "b"]))})
    data = Dataset.from_dict({"label": [[0, 1], []]}, features=features)
    assert typed(of_data_set(data, "the train data"), LABELS)["label"][:] == [["a", "b"], []]


def test_what_is_neither_a_label_nor_its_truth_is_named(tmp_path) -> None:
    path = saved(tmp_path / "data.jsonl", '{"label": 7}')
    assert "holds 7 in line 1 of data.jsonl; write lists of labels, or labels separated by commas" in refusal(
        path, LABELS
    )
    path = saved(tmp_path / "data.csv", "id,label\n1,1\n2,TRUE\n3,0.0\n4,2\n")
    assert "holds '2' in line 5 of data.csv; it must be 1 or 0 (true or false): whether the row" in refusal(path, TRUTH)
    path = saved(tmp_path / "good.csv", "id,label\n1,1\n2,TRUE\n3,0.0\n4,false\n")
    assert columns(path, TRUTH)["label"] == [True, True, False, False]


def test_metrics_count_labels_rows_and_ordered_pairs() -> None:
    data = Dataset.from_dict({"text": ["a"] * 3, "label": [["a"], ["b"], []]})
    task = multilabel({"train": data}, TextDataArguments(metrics=["f1_micro", "accuracy", "roc_auc", "recall_macro"]))
    logits, right = np.array([[2.0, 1.0], [-1.0, -2.0], [-3.0, -1.0]]), np.array([[1.0, 0], [0, 1], [0, 0]])
    assert task.score(EvalPrediction(logits, right)) == {
        "f1_micro": pytest.approx(0.5),  # of 2 found labels and 2 true ones, 1 is both
        "accuracy": pytest.approx(1 / 3),  # the last row
        "roc_auc": pytest.approx((1 + 0) / 2),  # a: above both others; b: below both others
        "recall_macro": pytest.approx((1 + 0) / 2),
    }


def test_columns_of_0_and_1_train_as_lists_do_and_predict_probabilities(bert, finetune, tmp_path, capsys) -> None:
    texts = [row["text"] for row in csv.DictReader(tiny.save_csv(tmp_path / "reviews.csv").open())]
    lists = [json.dumps({"text": text, "label": held(row)}) for row, text in enumerate(texts)]
    flags = [json.dumps({"text": text} | {name: int(name in held(row)) for name in NAMES})
             for row, text in enumerate(texts)]  # fmt: skip
    found = []
    for kind, rows, words in (("lists", lists, ()), ("flags", flags, ("--label_columns", *NAMES))):
        path = saved(tmp_path / f"{kind}.jsonl", "\n".join(rows))
        status, printed = finetune(bert, path, "--task", "multilabel", *words, output=tmp_path / kind)
        assert status == 0 and "multilabel, 3 classes" in printed, printed
        metrics = tiny.results(tmp_path / kind)["metrics"]["validation"]
        by_label = tiny.results(tmp_path / kind)["by_class"]["validation"]
        own = [one["f1"] for one in by_label["scores"].values()]
        assert np.mean(own) == pytest.approx(metrics["f1_macro"]) and list(by_label["scores"]) == list(NAMES)
        assert "validation data, label by label:" in printed and "f1_micro" in by_label["same_answer_for_every_row"]
        assert (tmp_path / kind / "scores_by_label.png").is_file()
        found.append({name: value for name, value in metrics.items() if name != "runtime"})
    assert found[0] == found[1] and {"loss", "f1_micro", "f1_macro"} <= found[0].keys()
    data = saved(tmp_path / "new.csv", "text\nthe good film\n")
    output = tmp_path / "new.jsonl"
    assert main(["predict", *map(str, ["--run", tmp_path / "flags", "--data", data, "--output", output])]) == 0
    row = json.loads(output.read_text())
    model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3)
    model = PeftModel.from_pretrained(model, tmp_path / "flags" / "adapter").eval()
    with torch.no_grad():
        logits = model(**AutoTokenizer.from_pretrained(bert)("the good film", return_tensors="pt")).logits[0]
    assert [row[f"probability of {name}"] for name in NAMES] == pytest.approx(torch.sigmoid(logits).tolist(), abs=1e-5)
    assert row["prediction"] == [name for name, one in zip(NAMES, logits, strict=True) if one > 0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--metrics", "f1"], "unknown metric 'f1' for several labels in a row; choose from f1_micro"),
        (["--metric_source", "evaluate"], "--metric_source evaluate has no metrics of several labels in a row"),
        (["--label_columns", "plot"], "--label_columns names 1 label (['plot']); at least 2 are needed"),
        (["--label_column", "x", "--label_columns", "y"], "--label_column and --label_columns exclude each other"),
        (["--balance_classes"], "--balance_classes is for classes that exclude each other, without"),
        (["--normalized_head"], "--normalized_head needs classes to tell apart; --task multilabel has none"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor smooths classes; --task multilabel has none"),
        (
            ["--task", "classification", "--label_columns", "plot"],
            "--label_columns has no effect here; it needs --task",
        ),
    ],
)
def test_what_is_for_one_class_in_each_row_is_refused(words, told, bert, finetune, tmp_path) -> None:
    rows = [json.dumps({"text": f"film {row}", "label": held(row), "plot": 1}) for row in range(24)]
    task = [] if "--task" in words else ["--task", "multilabel"]
    status, printed = finetune(bert, saved(tmp_path / "data.jsonl", "\n".join(rows)), *task, *words)
    assert status == 2 and told in printed, printed


def test_labels_that_training_does_not_have_are_refused() -> None:
    train = Dataset.from_dict({"text": ["a"] * 2, "label": [["a"], ["b"]]})
    other = Dataset.from_dict({"text": ["a"], "label": [["c"]]})
    with pytest.raises(UsageError, match=r"the validation data hold labels that the training .* not have: \['c'\]"):
        multilabel({"train": train, "validation": other}, TextDataArguments())


def test_a_label_that_no_training_row_has_is_told() -> None:
    data = Dataset.from_dict({"text": ["x"] * 2, "a": [True, False], "b": [False, False]})
    with pytest.warns(UserWarning, match="no row of the train data has the label 'b', so it cannot be learned .1 such"):
        multilabel({"train": data}, TextDataArguments(label_columns=["a", "b"]))


@pytest.mark.parametrize(
    ("held", "told"),
    [(["a", "a/b"], True), (["a", "b", ""], True), (["a", "a,b"], False), ([["a"], ["b"]], False)],
)
def test_rows_of_one_label_each_are_told(held, told, tmp_path, recwarn) -> None:
    path = saved(tmp_path / "data.jsonl", "\n".join(json.dumps({"label": one}) for one in held))
    columns(path, LABELS)
    assert len(recwarn) == told
    assert not told or str(recwarn[0].message) == (
        f"no row of the column 'label' of {path} holds several labels; they are separated by commas, semicolons, "
        "bars or line breaks, or written as lists"
    )
