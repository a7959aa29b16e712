"""Scores by label, where a row may have several, and what the same answer for every row would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from training.names import SCORES_BY_LABEL
from training.results.classes import cut, extremes, score_rows, scores_as_json
from training.results.figures import figure


@dataclass(frozen=True)
class LabelScores:
    """How well each label of some data was found.

    Attributes:
        names: of the labels.
        precision, recall, f1: of each label; 0 where nothing can be divided.
        counts: rows that have it.
        constant: metric -> the labels that one would name in every row, and the score of that.
    """

    names: Sequence[str]
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    counts: np.ndarray
    constant: Mapping[str, tuple[list[str], float]]

    unit = "label"
    picture = SCORES_BY_LABEL

    def beside(self, metric: str) -> str:
        """Return what is printed beside a metric: the score of the same answer for every row."""
        if metric not in self.constant:
            return ""
        named, score = self.constant[metric]
        shown = ", ".join(map(repr, named[:3])) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
        return f" (always {shown or 'no label'}: {score:.4g})"

    def as_json(self) -> dict[str, Any]:
        """Return everything in the terms of JSON."""
        return {
            "same_answer_for_every_row": {
                metric: {"labels": named, "score": score} for metric, (named, score) in self.constant.items()
            },
            "scores": scores_as_json(self.names, self.precision, self.recall, self.f1, self.counts),
        }

    def table(self) -> str:
        """Return the scores as text of at most 80 columns."""
        return "\n".join(score_rows(self.unit, self.names, self.precision, self.recall, self.f1, self.counts))

    def draw(self, path: Path, title: str) -> None:
        """Draw F1, precision and recall of each label, or of the worst and the best of many."""
        shown = extremes(self.f1)[::-1]
        with figure(path, size=(7.0, 1.5 + 0.3 * len(shown))) as (axes,):
            places = np.arange(len(shown))
            axes.barh(places, self.f1[shown], color="lightsteelblue", label="F1")
            axes.plot(self.precision[shown], places, "|", color="black", markersize=10, label="precision")
            axes.plot(self.recall[shown], places, ".", color="black", label="recall")
            axes.set_yticks(places, [f"{cut(self.names[number], 20)} ({self.counts[number]:,})" for number in shown])
            axes.set(xlim=(0, 1.02), title=f"{title} (rows with the label)")
            axes.figure.legend(loc="outside lower center", ncols=3)


def label_scores(
    found: np.ndarray, right: np.ndarray, names: Sequence[str], training: Mapping[str, int], rows: int
) -> LabelScores:
    """Score each label.

    The answers for every row come from the training data: for the accuracy, the labels that more than half of its rows
    have; for the F1 over all labels, the commonest ones, as many as are best there.

    Args:
        found: (rows, labels), whether a label was predicted.
        right: (rows, labels), whether it is true.
        names: of the labels, by number.
        training: rows of the training data that have each label.
        rows: of the training data.
    """
    precision, recall, f1, _ = precision_recall_fscore_support(right, found, average=None, zero_division=0)
    counts = np.asarray([training[name] for name in names])
    order = np.argsort(-counts, kind="stable")
    several = np.arange(1, len(names) + 1)
    best = np.argmax(2 * counts[order].cumsum() / (several * rows + counts.sum()))
    common = np.isin(np.arange(len(names)), order[: best + 1])
    mostly = 2 * counts > rows

    def same(answer: np.ndarray) -> np.ndarray:
        return np.broadcast_to(answer, right.shape)

    constant = {
        "accuracy": (mostly, accuracy_score(right, same(mostly))),
        "f1_micro": (common, f1_score(right, same(common), average="micro", zero_division=0)),
    }
    scored = {
        metric: ([name for name, named in zip(names, answer, strict=True) if named], float(score))
        for metric, (answer, score) in constant.items()
    }
    return LabelScores(names, precision, recall, f1, right.sum(0), scored)
