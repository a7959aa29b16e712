"""Class centers, compared with each other (CDNV) and with what the classifier predicts (NC4)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse.statistics import ClassStatistics

GlobalMean = Literal["samples", "classes"]
TILE_ROWS = 256  # rows that are compared with all class means at a time


def class_distance_normalized_variance(statistics: ClassStatistics, max_classes: int = 2048) -> float:
    """Average `(v_i + v_j) / (2 |h_i - h_j|^2)` over pairs of classes, with `v_k = s_k / n_k`.

    It takes O(K^2 d) time and O(K^2) memory, so beyond `max_classes` only the pairs among evenly spaced classes are
    used. Two class means that coincide, but for rounding, give inf.

    Source: Galanti, Gyorgy and Hutter, ICLR 2022 (class-distance normalized variance).

    >>> statistics = ClassStatistics(2, 1)
    >>> statistics.update(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    >>> class_distance_normalized_variance(statistics)
    0.0625
    """
    check_observed(statistics)
    if max_classes < 2:
        raise ValueError(f"`max_classes` must be at least 2, to have a pair, got {max_classes}")
    classes = statistics.observed.nonzero().flatten()
    if len(classes) > max_classes:
        steps = torch.arange(max_classes, device=classes.device) * (len(classes) - 1) // (max_classes - 1)
        classes = classes[steps]
    variances = statistics.squared_deviations[classes] / statistics.counts[classes]
    centered = statistics.means[classes] - statistics.means[classes].mean(0)
    squares = torch.cdist(centered, centered).square_()
    # Of many classes cdist subtracts products, which leaves this of two rows that are the same.
    cancelled = 8 * torch.finfo(torch.float64).eps * centered.square().sum(1).max().item()
    nothing = statistics.rounding**2
    inverse = squares.masked_fill_(squares <= max(nothing, cancelled), 0.0).reciprocal_()
    inverse.fill_diagonal_(0.0)
    pairs = len(classes) * (len(classes) - 1)
    moving = variances > nothing  # 0 * inf: collapsed classes with the same mean have nothing to contribute
    return (variances[moving] @ inverse[moving].sum(1)).item() / pairs


@torch.no_grad()
def nearest_center_agreement(
    features: Float[Tensor, "n d"], predictions: Int[Tensor, " n"], statistics: ClassStatistics
) -> float:
    """Compute NC4, the share of samples whose predicted class has the nearest mean (1 when collapsed).

    Args:
        features: rows, of the same kind as in the statistics.
        predictions: the most likely class of each row, by the classifier.
        statistics: of the class means.

    Raises:
        ValueError: without rows, or if predictions do not match the rows.

    Source: Papyan, Han and Donoho, PNAS 2020, NC4.

    >>> statistics = ClassStatistics(2, 1)
    >>> statistics.update(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    >>> nearest_center_agreement(torch.tensor([[0.9], [-2.0]]), torch.tensor([0, 0]), statistics)
    0.5
    """
    if len(features) == 0 or predictions.shape != features.shape[:1]:
        raise ValueError(
            f"NC4 needs rows, and one prediction for each, got features of shape {tuple(features.shape)} "
            f"and predictions of shape {tuple(predictions.shape)}"
        )
    check_observed(statistics)
    means = statistics.means
    lengths = means.square().sum(1).masked_fill(~statistics.observed, torch.inf)
    parts = features.to(means.device).split(TILE_ROWS)
    nearest = torch.cat([(lengths - 2 * part.to(means) @ means.mT).argmin(1) for part in parts])
    return (nearest == predictions.to(means.device)).double().mean().item()


def check_observed(statistics: ClassStatistics) -> None:
    """Raise unless at least two classes have samples."""
    observed = int(statistics.observed.sum())
    if observed < 2:
        raise ValueError(
            f"neural collapse compares classes: at least 2 of the {statistics.num_classes} classes need "
            f"samples, got {observed}"
        )


def centered_means_of(statistics: ClassStatistics, global_mean: GlobalMean) -> Float[Tensor, "K d"]:
    """Return the means of the classes with samples about the global mean; zeros if they differ by rounding alone.

    Raises:
        ValueError: with fewer than two classes with samples, or for another global mean.
    """
    check_observed(statistics)
    centered = statistics.means[statistics.observed] - global_mean_of(statistics, global_mean)
    differ = torch.linalg.vector_norm(centered, dim=1).max() > statistics.rounding
    return centered if differ else torch.zeros_like(centered)


def global_mean_of(statistics: ClassStatistics, global_mean: GlobalMean) -> Float[Tensor, " d"]:
    """Return the mean of all samples, or of the means of the classes with samples.

    Raises:
        ValueError: for another kind of mean.
    """
    if global_mean == "samples":
        return statistics.mean
    if global_mean == "classes":
        return statistics.observed.double() @ statistics.means / statistics.observed.sum()
    raise ValueError(f"`global_mean` must be 'samples' or 'classes', got {global_mean!r}")
