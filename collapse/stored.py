"""Class statistics of stored features and labels."""

from __future__ import annotations

import warnings
from typing import Any

from jaxtyping import Int
from torch import Tensor

from collapse.statistics import ClassStatistics, tensor_of
from evaluation_hooks import check_same_order

IGNORED_SEGMENT = 255  # the label of pixels without a class


def collected(statistics: Any, labels: Any = None, num_classes: int | None = None) -> ClassStatistics:
    """Return class statistics as they are, or those of features and labels.

    Args:
        statistics: class statistics, or features: a tensor, an array of NumPy or a list of rows.
        labels: the class index of each row; the features' alone.
        num_classes: K; one more than the largest label if None.

    Raises:
        TypeError: for features without labels, statistics with labels, or labels that are not integers.
        ValueError: for features that do not fit their labels or are not finite.

    >>> collected([[1.0], [3.0], [5.0]], [0, 1, 1]).means.flatten().tolist()
    [1.0, 4.0]
    """
    if isinstance(statistics, ClassStatistics):
        if labels is not None:
            raise TypeError(
                "class statistics hold their labels already; pass `labels` with features only, and a classifier's rows "
                "by name, `weight=`"
            )
        return statistics
    if labels is None:
        raise TypeError(
            f"the metrics need `ClassStatistics`, or features and labels, got a {type(statistics).__name__} alone; "
            "call them with features and labels"
        )
    check_same_order(features=statistics, labels=labels)
    features, classes = tensor_of(statistics, "features"), tensor_of(labels, "labels")
    if features.dim() == 0 or classes.numel() == 0:
        raise ValueError(
            f"features need a row for each label, got shapes {tuple(features.shape)} and {tuple(classes.shape)}"
        )
    if features.dim() == 1 and len(features) == len(classes):
        raise ValueError(f"features are rows, (n, d), got shape ({len(features)},); for d = 1 pass features[:, None]")
    found = ClassStatistics(
        num_classes or max(1, int(classes.long().max()) + 1), features.shape[-1], device=features.device
    )
    found.update(features, classes)
    if num_classes is None:
        _warn_of_ignored(found.counts)
    if found.num_samples == int(found.observed.sum()) > 1:
        warnings.warn(
            f"each of the {found.num_samples} classes has one sample, so nothing varies within them, whatever the "
            "features are; are the labels numbers of samples?",
            stacklevel=3,
        )
    return found


def _warn_of_ignored(counts: Int[Tensor, " K"]) -> None:
    """Warn if the largest label is 255 and the ones before it are missing, as in maps of segments."""
    if len(counts) == IGNORED_SEGMENT + 1 and counts[-2] == 0:
        warnings.warn(
            f"{int(counts[-1])} samples have the label {IGNORED_SEGMENT}, and none the one before it; it counts as a "
            f"class. If it marks what is to be ignored, leave these samples out: kept = labels != {IGNORED_SEGMENT}",
            stacklevel=4,
        )
