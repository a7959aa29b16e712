"""Metrics that cannot be computed for a job are refused before anything is trained, also by a dry run."""

from __future__ import annotations

import math
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_score
from transformers import EvalPrediction

from tests.training import tiny
from training.errors import UsageError
from training.tasks.metrics import LOCAL, class_scorer, scorer

NAMES = ["red", "green", "blue"]


@pytest.fixture
def data(tmp_path):
    """For each job data with as many classes as there are names."""

    def make(job: str, names: list[str]):
        labels = [names[number % len(names)] for number in range(36)]
        if job != "images":
            held = {"tags": [" ".join([label] * 7) for label in labels]} if job == "token_classification" else {}
            return tiny.save_csv(tmp_path / "data.csv", rows=36, label=labels, **held)
        for number, label in enumerate(labels):
            (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), label).save(tmp_path / "pictures" / label / f"{number}.png")
        return tmp_path / "pictures"

    return make


@pytest.mark.parametrize("dry", [["--dry_run"], []], ids=["dry", "run"])
@pytest.mark.parametrize("job", ["classification", "token_classification", "images"])
def test_f1_of_three_classes_is_refused_and_its_mean_is_named(job, dry, bert, vit, data, finetune, tmp_path) -> None:
    images = job == "images"
    model, words = (vit if images else bert), ["--metrics", "accuracy", "f1", *([] if images else ["--task", job])]
    command = "classify" if images else "finetune"
    status, printed = finetune(model, data(job, NAMES), *words, *dry, command=command)
    assert status == 2 and "error: f1 is a metric for two classes, and there are 3; pass --metrics f1_macro" in printed
    assert "Traceback" not in printed and not (tmp_path / "run").exists()
    words[2] = "f1_macro"
    assert finetune(model, data(job, NAMES), *words, "--dry_run", command=command)[0] == 0


def test_f1_of_two_classes_is_had(bert, data, finetune, tmp_path) -> None:
    status, printed = finetune(bert, data("classification", NAMES[:2]), "--metrics", "f1")
    assert status == 0, printed
    assert "f1" in tiny.results(tmp_path / "run")["metrics"]["validation"]


def test_metrics_of_classes_are_refused_for_numbers(bert, finetune, tmp_path) -> None:
    path = tiny.save_csv(tmp_path / "data.csv", label=[1, 2, 3, 4] * 10)
    words = ["--task", "regression", "--metrics", "mse", "accuracy", "--dry_run"]
    status, printed = finetune(bert, path, *words)
    assert status == 2 and "error: accuracy cannot be computed for regression targets: " in printed, printed
    assert "choose others with --metrics" in printed and "Traceback" not in printed


def test_every_local_metric_is_had_of_two_classes_and_most_of_more() -> None:
    held = np.array([0, 1, 1, 0])
    scores = scorer(list(LOCAL), classes=2)(held, held)
    assert scores.keys() == LOCAL.keys() and all(math.isfinite(value) for value in scores.values())
    assert scorer([name for name in LOCAL if name not in ("f1", "precision", "recall")], classes=1000)
    assert scorer(["pearsonr", "spearmanr", "mse", "mae"], classes=None)


def test_means_over_classes_of_other_metrics_come_from_evaluate(monkeypatch) -> None:
    def compute(predictions, references, average="binary"):
        return {"precision": precision_score(references, predictions, average=average)}

    monkeypatch.setattr(evaluate, "load", {"precision": SimpleNamespace(compute=compute)}.__getitem__)
    reason = "precision is a metric for two classes, and there are 3"
    message = f"{reason}; pass --metrics precision_macro, its mean over the classes"
    with pytest.raises(UsageError, match=message):
        scorer(["precision"], "evaluate", classes=3)
    score = scorer(["precision_macro"], "evaluate", classes=3)
    assert score(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1])) == {"precision_macro": pytest.approx(5 / 6)}


def test_a_metric_that_fails_in_its_own_way_is_refused_with_its_reason(monkeypatch) -> None:
    def compute(**_):
        raise KeyError("prediction_scores")

    monkeypatch.setattr(evaluate, "load", lambda _: SimpleNamespace(compute=compute))
    with pytest.raises(
        UsageError, match="brier_score cannot be computed for 2 classes: 'prediction_scores'; choose others with"
    ):
        scorer(["brier_score"], "evaluate", classes=2)


def share_of_ordered_pairs(positive: np.ndarray, scores: np.ndarray) -> float:
    """The definition: how often what is positive has the higher score; ties count half."""
    above = scores[positive][:, None] - scores[~positive][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


@pytest.mark.parametrize("classes", [2, 3])
def test_the_area_under_the_curve_is_of_probabilities(classes) -> None:
    """Of the second of two classes; of more, the mean of each that occurs against the rest."""
    draw = np.random.default_rng(0)
    logits, truth = draw.normal(size=(40, classes)), np.arange(40) % 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counted = [1] if classes == 2 else [0, 1]
    expected = np.mean([share_of_ordered_pairs(truth == one, probabilities[:, one]) for one in counted])
    found = class_scorer(["roc_auc", "recall_macro"], classes=classes)(EvalPrediction(logits, truth))
    assert list(found) == ["roc_auc", "recall_macro"] and found["roc_auc"] == pytest.approx(expected)
    alone = class_scorer(["roc_auc"], classes=classes)(EvalPrediction(logits[:1], truth[:1]))
    assert math.isnan(alone["roc_auc"]), "one class only"
