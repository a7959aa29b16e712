"""Metrics of the modality gap, from `PairStatistics`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation_hooks import check_same_order
from modality.metrics.moments import Moments, moments_of, moments_of_rows
from modality.metrics.statistics import PairStatistics
from modality.rows import as_rows, check_pairs, unit_rows


def modality_gap(statistics: PairStatistics | Any, y: Any = None) -> dict[str, float]:
    """Compute every metric of the gap that follows from first and second moments.

    Takes statistics of pairs, or the features of both modalities, `modality_gap(x, y)`: tensors, arrays of NumPy or
    lists. Their rows are pairs if there are as many of both; if not, as with several captions for an image, there are
    no distances within pairs.

    - `gap`: `|m_x - m_y|`, the distance between centroids. In [0, 2] on the sphere.
    - `paired_distance`, `alignment`: means of `|x_i - y_i|` and of `|x_i - y_i|^2` (Wang and Isola, 2020).
    - `uniformity`: see `uniformity`; higher is better, 0 is uniform on the sphere.
    - `effective_rank`: `exp(entropy)` of the normalized singular values of all features, centered (Roy and Vetterli).
    - `distribution_gap`: the Wasserstein distance between Gaussian fits of the two modalities with equal means,
      `sqrt(tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2))`; with the means, `sqrt(gap^2 + distribution_gap^2)`.
      A shift can close `gap`, but not this.
    - `linear_separability`: see `linear_separability`; here as the Gaussian fits predict it. Chance is 0.5.

    Covariances divide by n. Means that differ by rounding alone are the same, so the same rows in another order have
    gap 0 and separability 0.5. With no more pairs than features the last three describe the sample more than the model.

    Raises:
        TypeError: for anything but statistics or features.
        ValueError: with fewer than two pairs, or for features of several widths or that are not finite, or tables whose
            rows are in different orders.

    Source: Yaras et al., CPAL 2025 (gap, uniformity); the rest is named above.

    >>> statistics = PairStatistics(2)
    >>> statistics.update(torch.eye(2), -torch.eye(2))
    >>> round(modality_gap(statistics)["gap"], 4), round(modality_gap(statistics)["alignment"], 4)
    (1.4142, 4.0)
    """
    check_same_order(x=statistics, y=y)
    moments = moments_of(statistics) if y is None else moments_of_rows(as_rows(statistics), as_rows(y))
    roots = [_square_root(covariance) for covariance in moments.covariances]
    spectrum = _pooled_spectrum(moments)
    overlap = torch.linalg.matrix_norm(roots[0] @ roots[1], ord="nuc")
    between = (moments.covariances.diagonal(dim1=1, dim2=2).sum() - 2 * overlap).clamp(min=0)
    distances = () if moments.distances is None else moments.distances.tolist()
    return {
        "gap": torch.linalg.vector_norm(moments.shift).item(),
        **dict(zip(("paired_distance", "alignment"), distances, strict=False)),
        "uniformity": _uniformity(moments, spectrum),
        "effective_rank": _effective_rank(spectrum.sqrt()),
        "distribution_gap": between.sqrt().item(),
        "linear_separability": _gaussian_accuracy(moments),
    }


def pairwise_gaps(features: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """Compute `modality_gap` of every two of several modalities, such as image, text and sound in one space.

    Args:
        features: name of the modality -> its features, of one width; as many rows as you like of each. Rows of two
            modalities are pairs if there are as many of both.

    Returns:
        (name, other name) -> what `modality_gap` returns.

    Raises:
        TypeError, ValueError: for fewer than two modalities, and as `modality_gap`.

    >>> gaps = pairwise_gaps({"image": torch.eye(2), "text": -torch.eye(2), "sound": torch.eye(2)})
    >>> {pair: round(found["gap"], 4) for pair, found in gaps.items()}
    {('image', 'text'): 1.4142, ('image', 'sound'): 0.0, ('text', 'sound'): 1.4142}
    """
    if not isinstance(features, Mapping) or len(features) < 2:
        raise TypeError(
            f"gaps lie between modalities: pass at least two by name, such as {{'image': x, 'text': y}}, got "
            f"{list(features) if isinstance(features, Mapping) else type(features).__name__}"
        )
    return {(one, other): modality_gap(features[one], features[other]) for one, other in combinations(features, 2)}


def uniformity(statistics: PairStatistics) -> float:
    """Compute minus the Wasserstein distance of all features of both modalities to the uniform sphere.

        -sqrt( |m|^2 + 1 + tr C - (2 / sqrt d) tr C^1/2 )

    with their mean m and covariance C (dividing by the number of features). At most 0 up to rounding; higher is better.

    Source: Fang et al., ICLR 2024, as used in Yaras et al., CPAL 2025.

    >>> statistics = PairStatistics(2)
    >>> statistics.update(torch.eye(2), -torch.eye(2))
    >>> abs(round(uniformity(statistics), 4))
    0.0
    """
    moments = moments_of(statistics)
    return _uniformity(moments, _pooled_spectrum(moments))


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
    x, y = as_rows(x), as_rows(y)
    check_pairs(x, y)
    direction = _discriminant(moments_of(statistics))
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
    x, y = as_rows(x), as_rows(y)
    check_pairs(x, y)
    x, y = unit_rows(x), unit_rows(y)
    return unit_rows(x - x.mean(0)), unit_rows(y - y.mean(0))


def _uniformity(moments: Moments, spectrum: Float[Tensor, " d"]) -> float:
    """Compute `uniformity` from `_pooled_spectrum`."""
    mean, width = moments.shares @ moments.means, len(spectrum)
    squared = mean.square().sum() + 1 + spectrum.sum() - 2 / math.sqrt(width) * spectrum.sqrt().sum()
    return -squared.clamp(min=0).sqrt().item()


def _pooled_spectrum(moments: Moments) -> Float[Tensor, " d"]:
    """Return the eigenvalues of the covariance of all features of both modalities."""
    within = torch.einsum("m,mde->de", moments.shares, moments.covariances)
    between = moments.shares.prod() * torch.outer(moments.shift, moments.shift)
    return torch.linalg.eigvalsh(within + between).clamp(min=0)


def _square_root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def _effective_rank(singular_values: Float[Tensor, " d"]) -> float:
    share = singular_values / singular_values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.special.entr(share).sum().exp().item()


def _discriminant(moments: Moments) -> Float[Tensor, " d"]:
    """Return Fisher's direction; without scatter it follows the difference of the means alone."""
    values, vectors = torch.linalg.eigh(moments.covariances.sum(0))
    floor = values[-1].clamp(min=1e-30) * len(values) * torch.finfo(torch.float64).eps
    return vectors @ ((vectors.mT @ moments.shift) / values.clamp(min=floor))


def _gaussian_accuracy(moments: Moments) -> float:
    """Return the share on the right side of the discriminant if each modality is Gaussian with its own covariance."""
    direction = _discriminant(moments)
    margin = direction @ moments.shift / 2
    spread = torch.einsum("d,mde,e->m", direction, moments.covariances, direction).clamp(min=0).sqrt()
    certain = torch.where(margin > 0, 1.0, 0.5).to(spread)
    return torch.where(spread > 0, torch.special.ndtr(margin / spread), certain).mean().item()


def _half_counted(signed_distance: Tensor) -> Tensor:
    """Return 1 on the right side, 0 on the wrong side, 1/2 on the border."""
    return (signed_distance.sign() + 1) / 2
