"""Metrics of the modality gap, from `PairStatistics`."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from modality.metrics.statistics import PairStatistics
from modality.rows import check_pairs, unit_rows


def modality_gap(statistics: PairStatistics) -> dict[str, float]:
    """Compute every metric of the gap that follows from first and second moments.

    - `gap`: `|m_x - m_y|`, the distance between centroids. In [0, 2] on the sphere.
    - `paired_distance`, `alignment`: means of `|x_i - y_i|` and of `|x_i - y_i|^2` (Wang and Isola, 2020).
    - `uniformity`: see `uniformity`; higher is better, 0 is uniform on the sphere.
    - `effective_rank`: `exp(entropy)` of the normalized singular values of all features, centered (Roy and Vetterli).
    - `distribution_gap`: the Wasserstein distance between Gaussian fits of the two modalities with equal means,
      `sqrt(tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2))`; with the means, `sqrt(gap^2 + distribution_gap^2)`.
      A shift can close `gap`, but not this.
    - `linear_separability`: see `linear_separability`; here as the Gaussian fits predict it. Chance is 0.5.

    Covariances divide by n. With no more pairs than features the last three describe the sample more than the model.

    Raises:
        ValueError: with fewer than two pairs.

    Source: Yaras et al., CPAL 2025 (gap, uniformity); the rest is named above.

    >>> statistics = PairStatistics(2)
    >>> statistics.update(torch.eye(2), -torch.eye(2))
    >>> round(modality_gap(statistics)["gap"], 4), round(modality_gap(statistics)["alignment"], 4)
    (1.4142, 4.0)
    """
    count = _checked_count(statistics)
    distance, squared_distance = (statistics.distances / count).tolist()
    roots = [_square_root(scatter / count) for scatter in statistics.scatters]
    spectrum = _pooled_spectrum(statistics)
    overlap = torch.linalg.matrix_norm(roots[0] @ roots[1], ord="nuc")
    between = (statistics.scatters.diagonal(dim1=1, dim2=2).sum() / count - 2 * overlap).clamp(min=0)
    return {
        "gap": torch.linalg.vector_norm(statistics.means[0] - statistics.means[1]).item(),
        "paired_distance": distance,
        "alignment": squared_distance,
        "uniformity": _uniformity(statistics, spectrum),
        "effective_rank": _effective_rank(spectrum.sqrt()),
        "distribution_gap": between.sqrt().item(),
        "linear_separability": _gaussian_accuracy(statistics),
    }


def uniformity(statistics: PairStatistics) -> float:
    """Compute minus the Wasserstein distance of all features of both modalities to the uniform sphere.

        -sqrt( |m|^2 + 1 + tr C - (2 / sqrt d) tr C^1/2 )

    with their mean m and covariance C (dividing by the 2n features). At most 0 up to rounding; higher is better.

    Source: Fang et al., ICLR 2024, as used in Yaras et al., CPAL 2025.

    >>> statistics = PairStatistics(2)
    >>> statistics.update(torch.eye(2), -torch.eye(2))
    >>> abs(round(uniformity(statistics), 4))
    0.0
    """
    return _uniformity(statistics, _pooled_spectrum(statistics))


def linear_separability(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], statistics: PairStatistics) -> float:
    """Compute the share of rows that a linear classifier assigns to their own modality; 0.5 is chance.

    The classifier is Fisher's linear discriminant of `statistics`, `w = (C_x + C_y)^-1 (m_x - m_y)` with the threshold
    midway between the means: a closed form, so two passes suffice. Take the statistics from other pairs than those
    counted here, because any 2n <= d points in d dimensions can be separated.

    Args:
        x, y: rows to classify; normalized if the statistics are.
        statistics: of the pairs the classifier is fitted to.

    Raises:
        TypeError, ValueError: for features that are not pairs, or statistics of fewer than two pairs.

    >>> statistics = PairStatistics(2)
    >>> x, y = torch.tensor([[1.0, 0.1], [1.0, -0.1]]), torch.tensor([[0.1, 1.0], [-0.1, 1.0]])
    >>> statistics.update(x, y)
    >>> linear_separability(x, y, statistics)
    1.0
    """
    check_pairs(x, y)
    direction = _discriminant(statistics, _checked_count(statistics))
    threshold = direction @ statistics.means.mean(0)
    rows = [(unit_rows(side) if statistics.normalize else side).to(direction) @ direction for side in (x, y)]
    right = [_half_counted(rows[0] - threshold), _half_counted(threshold - rows[1])]
    return torch.cat(right).mean().item()


def mean_shift(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Subtract each modality's mean and normalize again: the control that needs no training.

    This closes most of the gap, so a method has to retrieve better than this does.

    Source: not in Yaras et al.; as in I0T, ACL 2025.

    >>> x, y = mean_shift(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))
    >>> torch.allclose(x, y)
    True
    """
    check_pairs(x, y)
    x, y = unit_rows(x), unit_rows(y)
    return unit_rows(x - x.mean(0)), unit_rows(y - y.mean(0))


def _checked_count(statistics: PairStatistics) -> int:
    if statistics.num_pairs < 2:
        raise ValueError(f"the metrics need at least two pairs, got {statistics.num_pairs}; call `update` first")
    return statistics.num_pairs


def _uniformity(statistics: PairStatistics, spectrum: Float[Tensor, " d"]) -> float:
    """Compute `uniformity` from `_pooled_spectrum`."""
    mean, width = statistics.means.mean(0), statistics.num_features
    squared = mean.square().sum() + 1 + spectrum.sum() - 2 / math.sqrt(width) * spectrum.sqrt().sum()
    return -squared.clamp(min=0).sqrt().item()


def _pooled_spectrum(statistics: PairStatistics) -> Float[Tensor, " d"]:
    """Return the eigenvalues of the covariance of all features of both modalities."""
    shift = statistics.means[0] - statistics.means[1]
    scatter = statistics.scatters.sum(0) / (2 * _checked_count(statistics)) + torch.outer(shift, shift) / 4
    return torch.linalg.eigvalsh(scatter).clamp(min=0)


def _square_root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def _effective_rank(singular_values: Float[Tensor, " d"]) -> float:
    share = singular_values / singular_values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.special.entr(share).sum().exp().item()


def _discriminant(statistics: PairStatistics, count: int) -> Float[Tensor, " d"]:
    """Return Fisher's direction; without scatter it follows the difference of the means alone."""
    shift = statistics.means[0] - statistics.means[1]
    values, vectors = torch.linalg.eigh(statistics.scatters.sum(0) / count)
    floor = values[-1].clamp(min=1e-30) * len(values) * torch.finfo(torch.float64).eps
    return vectors @ ((vectors.mT @ shift) / values.clamp(min=floor))


def _gaussian_accuracy(statistics: PairStatistics) -> float:
    """Return the share on the right side of the discriminant if each modality is Gaussian with its own covariance."""
    count = _checked_count(statistics)
    direction = _discriminant(statistics, count)
    margin = direction @ (statistics.means[0] - statistics.means[1]) / 2
    spread = torch.einsum("d,mde,e->m", direction, statistics.scatters / count, direction).clamp(min=0).sqrt()
    certain = torch.where(margin > 0, 1.0, 0.5).to(spread)
    return torch.where(spread > 0, torch.special.ndtr(margin / spread), certain).mean().item()


def _half_counted(signed_distance: Tensor) -> Tensor:
    """Return 1 on the right side, 0 on the wrong side, 1/2 on the border."""
    return (signed_distance.sign() + 1) / 2
