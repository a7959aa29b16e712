"""Neural-collapse metrics of class statistics and classifier weights, as the authors' code defines them.

    NC1  (1/K) tr(S_W S_B^+)               samples collapse to their class mean
    NC2  | W W^T / |W W^T|_F - T |_F       class vectors form a simplex ETF
    NC3  | W H^T / |W H^T|_F - T |_F       class vectors and class means align
    NC4  share of samples whose prediction is the nearest class mean

with `S_W = (1/N) sum (h - h_k)(h - h_k)^T`, `S_B = (1/K) sum (h_k - h_G)(h_k - h_G)^T`, h_G the mean of all samples and
H the class means, not centered (Yaras et al., NeurIPS 2022; definitions of Papyan, Han and Donoho, PNAS 2020). Smaller
is more collapsed, except for NC4. Classes without samples are left out of NC1, NC3, NC4 and CDNV.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse.centers import (
    GlobalMean,
    centered_means_of,
    check_observed,
    class_distance_normalized_variance,
    global_mean_of,
    nearest_center_agreement,
)
from collapse.simplex import simplex_distance
from collapse.statistics import TILE_ROWS, ClassStatistics, tensor_of
from evaluation_hooks import check_same_order

__all__ = [
    "class_distance_normalized_variance",
    "feature_norm_spread",
    "nc1",
    "nc2",
    "nc3",
    "nearest_center_agreement",
    "neural_collapse",
    "separation_quotient",
]

IGNORED_SEGMENT = 255  # the label of pixels without a class


def neural_collapse(
    features: ClassStatistics | Any,
    labels: Any = None,
    weight: Float[Tensor, "K d"] | Any = None,
    *,
    centered_means: bool = False,
    global_mean: GlobalMean = "samples",
    rcond: float | None = None,
    quotient: bool = False,
    max_pair_classes: int = 2048,
) -> dict[str, float]:
    """Compute all metrics of features, their labels and, if given, the classifier's weight.

    Args:
        features: what enters the classifier, one row for each sample: a tensor, an array of NumPy or a list. Or class
            statistics of it, which hold their labels; with several processes, `reduce` them first.
        labels: a class index for each row of features; -100 is left out.
        weight: classifier rows, such as a Linear's weight; without them there is no `nc2` and no `nc3`. For a
            `NormalizedClassifier` pass its `class_vectors()`, and `unit_rows(features)`.
        centered_means: subtract the global mean from the class means in NC3, as Papyan et al. do; the authors do not.
        global_mean: h_G, the mean of all samples or of the class means; the same on balanced data.
        rcond: relative cut-off of the pseudo-inverse in NC1; None drops rounding errors only.
        quotient: `nc1` is `tr(S_W) / tr(S_B)` instead; always so for statistics with `within="trace"`.
        max_pair_classes: CDNV runs over the pairs among at most this many evenly spaced classes.

    Returns:
        `nc1`, `cdnv`, `feature_norm_spread`, and with a weight `nc2`, `nc3`.

    Raises:
        TypeError: for features without labels, statistics with labels, or labels that are not integers.
        ValueError: with fewer than two observed classes, or features, labels and weight that do not fit or are not
            finite.

    >>> features = [[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]]
    >>> metrics = neural_collapse(features, [0, 0, 1, 1], weight=[[1.0, 0.0], [-1.0, 0.0]])
    >>> {name: round(value, 3) for name, value in metrics.items()}
    {'nc1': 0.0, 'cdnv': 0.003, 'feature_norm_spread': 0.0, 'nc2': 0.0, 'nc3': 0.0}
    """
    weight = None if weight is None else _checked_weight(weight)
    statistics = collected(features, labels, None if weight is None else len(weight))
    if quotient or statistics.within == "trace":
        first = separation_quotient(statistics, global_mean=global_mean)
    else:
        first = nc1(statistics, global_mean=global_mean, rcond=rcond)
    metrics = {
        "nc1": first,
        "cdnv": class_distance_normalized_variance(statistics, max_pair_classes),
        "feature_norm_spread": feature_norm_spread(statistics),
    }
    if weight is not None:
        metrics["nc2"] = nc2(weight)
        metrics["nc3"] = nc3(statistics, weight, centered_means=centered_means, global_mean=global_mean)
    return metrics


def nc1(
    statistics: ClassStatistics | Any,
    labels: Any = None,
    *,
    global_mean: GlobalMean = "samples",
    rcond: float | None = None,
) -> float:
    """Compute the within-class variability `(1/K) tr(S_W S_B^+)`: 0 if every sample equals its class mean.

    The pseudo-inverse keeps at most K - 1 eigenvalues, the largest possible rank of S_B, and of these only those above
    `rcond` times the largest (the authors use 1e-15, which keeps rounding noise). Takes class statistics, or features
    and labels, as `neural_collapse` does.

    Raises:
        TypeError: for anything but statistics, or features and labels.
        ValueError: for statistics without the full scatter, or fewer than two classes with samples.

    >>> statistics = ClassStatistics(2, 1)
    >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    >>> nc1(statistics)
    0.125
    """
    statistics = collected(statistics, labels)
    if statistics.within_scatter is None:
        raise ValueError(
            "NC1 needs the full within-class scatter; make the statistics with `within='full'`, or ask for `quotient`"
        )
    centered = centered_means_of(statistics, global_mean)
    num_classes, dimension = centered.shape
    _check_differ(centered, "NC1")
    values, vectors = _between_eigenpairs(centered)
    cut = max(num_classes, dimension) * torch.finfo(torch.float64).eps if rcond is None else rcond
    kept = (values > cut * values.max()) & (values > 0)
    vectors = vectors[:, kept]
    within = (vectors * (statistics.within_scatter @ vectors)).sum(0) / statistics.num_samples
    return (within / values[kept]).sum().item() / num_classes


def separation_quotient(statistics: ClassStatistics, *, global_mean: GlobalMean = "samples") -> float:
    """Compute `tr(S_W) / tr(S_B)`, NC1 without a matrix inverse; layer by layer it measures progressive collapse.

    Source: Yaras et al., arXiv:2306.01154, where it falls geometrically from layer to layer.

    >>> statistics = ClassStatistics(2, 1)
    >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    >>> separation_quotient(statistics)
    0.25
    """
    centered = centered_means_of(statistics, global_mean)
    between = centered.square().sum().item() / len(centered)
    within = statistics.squared_deviations.sum().item() / statistics.num_samples
    return within / between if between > 0 else float("inf")


def nc2(weight: Float[Tensor, "K d"] | Any) -> float:
    """Compute the distance of the classifier's Gram matrix from the simplex ETF; see `simplex_distance`.

    >>> round(nc2(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), 4)
    0.0
    """
    return simplex_distance(_checked_weight(weight))


def nc3(
    statistics: ClassStatistics,
    weight: Float[Tensor, "K d"] | Any,
    *,
    centered_means: bool = False,
    global_mean: GlobalMean = "samples",
) -> float:
    """Compute the distance of `W H^T` from the simplex ETF, over the classes with samples; see `simplex_distance`.

    Raises:
        ValueError: if the weight does not have one row of d entries for each class.

    >>> statistics = ClassStatistics(2, 1)
    >>> statistics.update(torch.tensor([[2.0], [-2.0]]), torch.tensor([0, 1]))
    >>> round(nc3(statistics, torch.tensor([[1.0], [-1.0]])), 4)
    0.0
    """
    weight = _checked_weight(weight)
    if weight.shape != statistics.means.shape:
        raise ValueError(
            f"`weight` must have one row for each class, {tuple(statistics.means.shape)}, got {tuple(weight.shape)}; "
            "a Linear's weight fits as it is, a Flax kernel transposed"
        )
    check_observed(statistics)
    observed = statistics.observed
    means, rows = statistics.means, weight.to(statistics.means.device)
    if not observed.all():
        means, rows = means[observed], rows[observed]
    if centered_means:
        _check_differ(centered_means_of(statistics, global_mean), "NC3")
    offset = global_mean_of(statistics, global_mean) if centered_means else None
    return simplex_distance(rows, means, offset)


def feature_norm_spread(statistics: ClassStatistics) -> float:
    """Divide the standard deviation of the feature norms by their mean; 0 on a sphere.

    >>> statistics = ClassStatistics(2, 1)
    >>> statistics.update(torch.tensor([[1.0], [-3.0]]), torch.tensor([0, 1]))
    >>> feature_norm_spread(statistics)
    0.5
    """
    check_observed(statistics)
    mean = statistics.norm_mean.item()
    deviation = (statistics.norm_deviation.item() / statistics.num_samples) ** 0.5
    return deviation / mean if mean > 0 else 0.0


def _checked_weight(weight: Any) -> Float[Tensor, "K d"]:
    rows = tensor_of(weight, "weight")
    if rows.dim() != 2 or not rows.is_floating_point() or not rows.isfinite().all():
        raise ValueError(
            f"`weight` must be a finite (classes, features) matrix, got {rows.dtype} of shape {tuple(rows.shape)}; a "
            "Linear's weight fits as it is, a Flax kernel transposed"
        )
    return rows


def _between_eigenpairs(centered: Float[Tensor, "K d"]) -> tuple[Tensor, Tensor]:
    """Return at most K - 1 leading eigenvalues and eigenvectors of `S_B`, from the smaller side of the means."""
    num_classes, dimension = centered.shape
    if num_classes <= dimension:
        _, singular, right = torch.linalg.svd(centered, full_matrices=False)
        return (singular.square() / num_classes)[: num_classes - 1], right[: num_classes - 1].mT
    scatter = centered.new_zeros(dimension, dimension)
    for rows in centered.split(TILE_ROWS):
        scatter.addmm_(rows.mT, rows)
    values, vectors = torch.linalg.eigh(scatter / num_classes)
    return values[-(num_classes - 1) :], vectors[:, -(num_classes - 1) :]


def _check_differ(centered: Float[Tensor, "K d"], name: str) -> None:
    if not centered.any():
        raise ValueError(f"all class means coincide, so {name} is not defined; are the features constant?")


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
