"""Scores by class, the confusion of classes, and what always naming the commonest class would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from training.names import CONFUSION
from training.results.figures import figure

_WIDTH = 80
_TITLE = "true / predicted"
_NAME = 28  # letters of a name in a table
ROWS = 20  # of a table; results.json has all
_CELLS = 10  # classes of a confusion matrix that is printed
DRAWN = 25  # classes whose numbers are written into the picture


@dataclass(frozen=True)
class ClassScores:
    """How well each class of some data was found.

    Attributes:
        names: of the classes.
        confusion: (classes, classes); rows are what is true, columns what was predicted.
        precision, recall, f1: of each class; 0 where nothing can be divided.
        commonest: the class that training has most of.
    """

    names: Sequence[str]
    confusion: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    commonest: int

    unit = "class"
    picture = CONFUSION

    @property
    def baseline(self) -> float:
        """Return the accuracy of always predicting the commonest class."""
        counts = self.confusion.sum(1)
        return float(counts[self.commonest] / max(counts.sum(), 1))

    def beside(self, metric: str) -> str:
        """Return what is printed beside a metric: of the accuracy, its baseline."""
        return f" (always {self.names[self.commonest]!r}: {self.baseline:.4g})" if metric == "accuracy" else ""

    def as_json(self) -> dict[str, Any]:
        """Return everything in the terms of JSON."""
        return {
            "commonest_class": self.names[self.commonest],
            "accuracy_of_commonest_class": self.baseline,
            "scores": scores_as_json(self.names, self.precision, self.recall, self.f1, self.confusion.sum(1)),
            "confusion": self.confusion.tolist(),
        }

    def table(self) -> str:
        """Return scores and confusion as text of at most 80 columns."""
        rows = score_rows(self.unit, self.names, self.precision, self.recall, self.f1, self.confusion.sum(1))
        return "\n".join([*rows, "", *_confusion(self)])

    def draw(self, path: Path, title: str) -> None:
        """Draw the confusion of the classes, each row as shares of what is true."""
        shares = self.confusion / np.maximum(self.confusion.sum(1, keepdims=True), 1)
        side = min(12.0, 3.0 + 0.35 * len(self.names))
        with figure(path, size=(side + 1, side)) as (axes,):
            image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
            axes.figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
            axes.set(xlabel="predicted", ylabel="true", title=title)
            if len(self.names) > DRAWN:
                return
            ticks = range(len(self.names))
            axes.set_xticks(ticks, [cut(name, 20) for name in self.names], rotation=90)
            axes.set_yticks(ticks, [cut(name, 20) for name in self.names])
            for (row, column), count in np.ndenumerate(self.confusion):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=8)


def class_scores(
    predictions: np.ndarray, references: np.ndarray, names: Sequence[str], training: Mapping[str, int]
) -> ClassScores:
    """Score each class.

    Args:
        predictions: numbers of classes.
        references: numbers of classes.
        names: of the classes, by number.
        training: rows of each class in the training data.
    """
    every = np.arange(len(names))
    precision, recall, f1, _ = precision_recall_fscore_support(references, predictions, labels=every, zero_division=0)
    confusion = confusion_matrix(references, predictions, labels=every)
    commonest = int(np.argmax([training[name] for name in names]))
    return ClassScores(names, confusion, precision, recall, f1, commonest)


def scores_as_json(names: Sequence[str], *columns: np.ndarray) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and count of each class, or label, in the terms of JSON."""
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "count": int(n)}
        for name, p, r, f, n in zip(names, *columns, strict=True)
    }


def score_rows(
    title: str, names: Sequence[str], precision: np.ndarray, recall: np.ndarray, f1: np.ndarray, counts: np.ndarray
) -> list[str]:
    """Return a table of the scores of each class, or label, as lines of at most 80 columns.

    Args:
        title: of the column with the names.
        names: of the classes.
        precision, recall, f1: of each.
        counts: how often each is true.
    """
    width = min(_NAME, max(len(title), *map(len, names)))
    rows = [f"{title:<{width}}  precision  recall     f1    count"]
    for number in extremes(f1):
        rows.append(
            f"{cut(names[number], width):<{width}}  {precision[number]:>9.3f}  {recall[number]:>6.3f}"
            f"  {f1[number]:>5.3f}  {counts[number]:>7,}"
        )
    if len(names) > ROWS:
        several = "classes" if title == "class" else f"{title}s"
        rows.append(
            f"... the {ROWS // 2} worst and the {ROWS // 2} best of {len(names)} {several}; results.json has all"
        )
    return rows


def extremes(f1: np.ndarray) -> list[int]:
    """Return the numbers of all classes, or of the worst and the best of many, in their order."""
    order = np.argsort(f1, kind="stable")
    shown = order if len(order) <= ROWS else np.concatenate([order[: ROWS // 2], order[-ROWS // 2 :]])
    return sorted(map(int, shown))


def _confusion(scores: ClassScores) -> list[str]:
    """Return the matrix, or the confusions that come most often where it would be too wide."""
    cell = max(5, len(str(scores.confusion.max())) + 1)
    if len(scores.names) <= _CELLS and cell * len(scores.names) <= 50:
        width = min(_NAME - 4, max(map(len, scores.names)))
        room = (_WIDTH - max(width, len(_TITLE))) // len(scores.names)
        cell = max(cell, min(room, 1 + max(map(len, scores.names))))
        head = "".join(f"{cut(name, cell - 1):>{cell}}" for name in scores.names)
        return [
            f"{_TITLE if width >= len(_TITLE) else '':<{width}}{head}",
            *(
                f"{cut(name, width):<{width}}" + "".join(f"{count:>{cell}}" for count in row)
                for name, row in zip(scores.names, scores.confusion, strict=True)
            ),
        ]
    off = scores.confusion * (1 - np.eye(len(scores.names), dtype=int))
    places = np.argsort(off, axis=None, kind="stable")[::-1][:_CELLS]
    found = [np.unravel_index(place, off.shape) for place in places if off.flat[place]]
    return [
        f"{off[true, other]:>6,} x {cut(scores.names[true], _NAME)} taken for {cut(scores.names[other], _NAME)}"
        for true, other in found
    ]


def cut(name: str, width: int) -> str:
    """Return a name, cut to a width."""
    return name if len(name) <= width else f"{name[: width - 1]}…"
