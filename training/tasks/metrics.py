"""Metrics by name, of scikit-learn and scipy or, where they are asked for, of `evaluate`; and those of tokens."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn import metrics
from torch import Tensor, nn
from transformers import EvalPrediction

from training.errors import UsageError, redacted
from training.job import IGNORED
from training.tasks.base import classes_of, logits_of

Score = Callable[[np.ndarray, np.ndarray], float]
AUC = "roc_auc"  # of probabilities; the other metrics are of classes
TOKEN_METRICS = ("token_loss", "perplexity", "token_accuracy")  # of `score_tokens`
_OF_TWO_CLASSES = ("f1", "precision", "recall")  # unless they are averaged


def _correlation(function: Callable[..., Any]) -> Score:
    def score(predictions: np.ndarray, references: np.ndarray) -> float:
        if len(references) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
            return math.nan
        return float(function(predictions, references).statistic)

    return score


def _swapped(function: Callable[..., Any], **settings: Any) -> Score:
    """scikit-learn takes the references first."""
    return lambda predictions, references: float(function(references, predictions, **settings))


LOCAL: dict[str, Score] = {
    "accuracy": _swapped(metrics.accuracy_score),
    "f1": _swapped(metrics.f1_score, zero_division=0.0),
    "f1_macro": _swapped(metrics.f1_score, average="macro", zero_division=0.0),
    "precision": _swapped(metrics.precision_score, zero_division=0.0),
    "precision_macro": _swapped(metrics.precision_score, average="macro", zero_division=0.0),
    "recall": _swapped(metrics.recall_score, zero_division=0.0),
    "recall_macro": _swapped(metrics.recall_score, average="macro", zero_division=0.0),
    "matthews_correlation": _swapped(metrics.matthews_corrcoef),
    "pearsonr": _correlation(stats.pearsonr),
    "spearmanr": _correlation(stats.spearmanr),
    "mse": _swapped(metrics.mean_squared_error),
    "mae": _swapped(metrics.mean_absolute_error),
}


def scorer(
    names: Sequence[str], source: str = "local", *, classes: int | None
) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """Return a function of predictions and references that gives every metric.

    Args:
        names: keys of `LOCAL`; with source "evaluate" also any other metric of that library, and its mean over classes
            under the name with `_macro`.
        source: "local" or "evaluate".
        classes: how many there are, as numbers from 0; None for real numbers.

    Raises:
        UsageError: a metric is unknown, belongs to `evaluate` and is not there, or does not work for so many
            classes, or for real numbers: each is tried here, before anything is trained.

    >>> scorer(["accuracy"], classes=2)(np.array([0, 1, 1]), np.array([0, 1, 0]))
    {'accuracy': 0.6666666666666666}
    """
    functions = {name: _from_evaluate(name) if source == "evaluate" else _local(name) for name in names}
    for name, function in functions.items():
        _try(name, function, classes)
    return lambda predictions, references: {
        name: function(predictions, references) for name, function in functions.items()
    }


def class_scorer(
    names: Sequence[str], source: str = "local", *, classes: int
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return a function of logits and numbers of classes that gives every metric, `roc_auc` among them.

    Args:
        names: as for `scorer`.
        source: as for `scorer`.
        classes: how many there are.

    Raises:
        UsageError: as `scorer`.
    """
    score = scorer([name for name in names if name != AUC], source, classes=classes)

    def score_classes(prediction: EvalPrediction) -> dict[str, float]:
        found = score(*classes_of(prediction))
        if AUC in names:
            probabilities = torch.from_numpy(logits_of(prediction)).double().softmax(-1).numpy()
            truth = np.asarray(prediction.label_ids)[:, None] == np.arange(classes)
            found[AUC] = (
                mean_auc(truth[:, 1:], probabilities[:, 1:]) if classes == 2 else mean_auc(truth, probabilities)
            )
        return {name: found[name] for name in names}

    return score_classes


def mean_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean area under the ROC curve over the columns in which both answers occur; NaN if there are none.

    Args:
        truth: (rows, columns), true or false.
        scores: (rows, columns), higher for what is more likely true.

    >>> mean_auc(np.array([[True, True], [False, True]]), np.array([[0.9, 0.1], [0.2, 0.3]]))
    1.0
    """
    mixed = np.flatnonzero(truth.any(0) & ~truth.all(0))
    areas = [metrics.roc_auc_score(truth[:, column], scores[:, column]) for column in mixed]
    return float(np.mean(areas)) if areas else math.nan


def _try(name: str, score: Score, classes: int | None) -> None:
    """Score made-up predictions, half of the possible ones wrong."""
    references = np.tile(np.linspace(0.0, 1.0, 5) if classes is None else np.arange(classes), 2)
    predictions = np.concatenate([references[: len(references) // 2], references[: len(references) // 2][::-1]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score(predictions, references)
    except Exception as error:  # a metric of evaluate may raise anything
        if name in _OF_TWO_CLASSES and classes is not None and classes > 2:
            raise UsageError(
                f"{name} is a metric for two classes, and there are {classes}; pass --metrics {name}_macro, its mean "
                "over the classes"
            ) from error
        held = "regression targets" if classes is None else f"{classes} classes"
        raise UsageError(
            f"{name} cannot be computed for {held}: {redacted(str(error))}; choose others with --metrics"
        ) from error


def _local(name: str) -> Score:
    if name not in LOCAL:
        raise UsageError(
            f"unknown local metric {name!r}; choose one of {', '.join(LOCAL)}, {AUC} for one class in each row, or "
            "pass --metric_source evaluate"
        )
    return LOCAL[name]


def _from_evaluate(name: str) -> Score:
    """Load the metric of `evaluate`, whose definition is a script on the Hub or a local folder."""
    script = name.removesuffix("_macro")
    settings = {} if script == name else {"average": "macro"}
    try:
        import evaluate

        metric = evaluate.load(script)
    except Exception as error:  # not installed, offline, unknown: the library raises many kinds
        if name not in LOCAL:
            raise UsageError(f"the metric {name!r} cannot be loaded by evaluate and is not local: {error}") from error
        warnings.warn(
            f"evaluate cannot load {script!r} ({type(error).__name__}); its local counterpart is used", stacklevel=2
        )
        return LOCAL[name]

    def score(predictions: np.ndarray, references: np.ndarray) -> float:
        result = metric.compute(predictions=predictions, references=references, **settings)
        return float(result[script] if script in result else next(iter(result.values())))

    return score


def token_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Return negative log-likelihood, hits and number of the labeled tokens of each row: (batch, 3).

    Sums of each row do not depend on how rows are put into batches, so neither do the metrics.

    >>> token_sums(torch.zeros(1, 2, 4), torch.tensor([[0, -100]]))
    tensor([[1.3863, 1.0000, 1.0000]])
    """
    kept = labels != IGNORED
    losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    hits = (logits.argmax(-1) == labels) & kept
    return torch.stack([losses.sum(1), hits.sum(1).float(), kept.sum(1).float()], dim=1)


def score_tokens(prediction: EvalPrediction) -> dict[str, float]:
    """Return the mean loss of a token, its exponential, and the share of tokens predicted right."""
    loss, hits, count = np.asarray(prediction.predictions, dtype=np.float64).reshape(-1, 3).sum(0)
    mean = float(loss / max(count, 1))
    return {
        "token_loss": mean,
        "perplexity": float(np.exp(min(mean, 700))),
        "token_accuracy": float(hits / max(count, 1)),
    }
