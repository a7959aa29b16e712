"""`Moments`: means and covariances of two modalities, from which the metrics of the gap follow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from modality.metrics.statistics import PairStatistics
from modality.rows import check_pairs


@dataclass(frozen=True)
class Moments:
    """What the metrics need of both modalities.

    Attributes:
        means: m_x and m_y.
        covariances: C_x and C_y, dividing by n.
        shares: of each modality in all features, n_x / (n_x + n_y) and the rest.
        distances: means of |x_i - y_i| and of |x_i - y_i|^2; None if the rows are not pairs.

    >>> moments = moments_of_rows(torch.eye(2), torch.eye(2)[[0, 1, 1]])
    >>> moments.shares.tolist(), moments.distances
    ([0.4, 0.6], None)
    """

    means: Float[Tensor, "2 d"]
    covariances: Float[Tensor, "2 d d"]
    shares: Float[Tensor, " modalities"]
    distances: Float[Tensor, " modalities"] | None = None

    @property
    def shift(self) -> Float[Tensor, " d"]:
        """The difference of the means."""
        return self.means[0] - self.means[1]


def moments_of(statistics: PairStatistics) -> Moments:
    """Return the moments of statistics of pairs.

    Raises:
        TypeError: these are not statistics.
        ValueError: there are fewer than two pairs.
    """
    if not isinstance(statistics, PairStatistics):
        raise TypeError(
            f"the metrics of the gap need `PairStatistics`, or the features of both modalities, got one "
            f"{type(statistics).__name__}; call `modality_gap(x, y)`"
        )
    count = statistics.num_pairs
    if count < 2:
        raise ValueError(f"the metrics need at least two pairs, got {count}; call `update` first")
    shares = torch.full_like(statistics.means[:, 0], 0.5)
    found = Moments(statistics.means, statistics.scatters / count, shares, statistics.distances / count)
    return _without_rounding(found, count)


def moments_of_rows(x: Any, y: Any) -> Moments:
    """Return the moments of the features of both modalities; their rows are pairs if there are as many of both.

    Raises:
        TypeError, ValueError: if these are not features, differ in width, are not finite, or have fewer than two rows.
    """
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or x.dim() != 2 or y.dim() != 2 or len(x) == len(y):
        return moments_of(_collected(x, y))
    if x.shape[1] != y.shape[1]:
        check_pairs(x, y)
    sides = [moments_of(_collected(rows, rows)) for rows in (x, y)]
    counts = torch.tensor([len(x), len(y)], dtype=torch.float64, device=sides[0].means.device)
    means, covariances = (torch.stack([getattr(side, name)[0] for side in sides]) for name in ("means", "covariances"))
    return _without_rounding(Moments(means, covariances, counts / counts.sum()), max(len(x), len(y)))


def _without_rounding(moments: Moments, count: int) -> Moments:
    """Return equal means, and no scatter, where these are nothing but the rounding of sums over so many rows.

    >>> one = Moments(torch.tensor([[1.0], [1 + 3e-16]]).double(), torch.full((2, 1, 1), 1e-33).double(), torch.ones(2))
    >>> _without_rounding(one, 5).covariances.flatten().tolist()
    [0.0, 0.0]
    """
    means, spreads = moments.means, moments.covariances.diagonal(dim1=1, dim2=2).sum(1)
    lengths = (means.square().sum(1) + spreads).max().sqrt()
    rounding = math.sqrt(count * means.shape[1]) * torch.finfo(means.dtype).eps * lengths
    if torch.linalg.vector_norm(moments.shift) <= rounding:
        means = means[:1].expand_as(means)
    scattered = (spreads > rounding.square()).to(means)
    return replace(moments, means=means, covariances=moments.covariances * scattered[:, None, None])


def _collected(x: Any, y: Any) -> PairStatistics:
    check_pairs(x, y)
    statistics = PairStatistics(x.shape[1])
    statistics.update(x, y)
    return statistics
