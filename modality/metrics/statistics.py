"""`PairStatistics`: what the metrics of the modality gap need, in one pass and O(d^2) memory."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from modality.losses.gather import Group, world_size_of
from modality.rows import as_rows, check_pairs, unit_rows

TILE_ROWS = 1024


class PairStatistics:
    """Means and scatter of both modalities, and distances within pairs, of features that arrive in batches.

        m_x = mean of x_i,   S_x = sum_i (x_i - m_x)(x_i - m_x)^T,   the same for y;   sums of |x_i - y_i|, and squared

    State is in float64 and updated about the running mean, so batches may come in any order and size, and be merged in
    any grouping. An update costs O(n d^2).

    Args:
        num_features: d, the width both modalities share.
        normalize: normalize the rows first; the metrics are defined on the sphere.
        device: where the state lives (float64 must exist there; for `reduce` the process group must reach it).

    Attributes:
        count: n.
        means: m_x and m_y, (2, d).
        scatters: S_x and S_y, (2, d, d).
        distances: sums of |x_i - y_i| and of |x_i - y_i|^2, (2,).

    Source: Chan, Golub and LeVeque, 1979, for the merged updates.

    >>> statistics = PairStatistics(2)
    >>> statistics.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    >>> statistics.means.tolist(), statistics.num_pairs
    ([[0.5, 0.5], [1.0, 0.0]], 2)
    """

    def __init__(self, num_features: int, *, normalize: bool = True, device: torch.device | str | None = None) -> None:
        if isinstance(num_features, bool) or not isinstance(num_features, int) or num_features < 1:
            raise ValueError(f"`num_features` must be a positive integer, got {num_features!r}")
        self.num_features, self.normalize = num_features, normalize
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.means = torch.zeros(2, num_features, dtype=torch.float64, device=device)
        self.scatters = torch.zeros(2, num_features, num_features, dtype=torch.float64, device=device)
        self.distances = torch.zeros(2, dtype=torch.float64, device=device)

    @property
    def num_pairs(self) -> int:
        """The number of pairs added."""
        return int(self.count)

    @torch.no_grad()
    def update(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> None:
        """Add a batch of pairs, in place: tensors, NumPy arrays or lists of rows.

        Raises:
            TypeError, ValueError: for features that are not pairs, of another width, or not finite.
        """
        x, y = as_rows(x), as_rows(y)
        check_pairs(x, y)
        if x.shape[1] != self.num_features:
            raise ValueError(f"these are statistics of {self.num_features} features, got rows of {x.shape[1]}")
        if not (x.isfinite().all() and y.isfinite().all()):
            raise ValueError("the features hold NaN or inf; look at the batch and the model's precision before this")
        for rows in zip(x.split(TILE_ROWS), y.split(TILE_ROWS), strict=True):
            pair = torch.stack(rows).to(self.means.device, torch.float64)
            self._take(unit_rows(pair) if self.normalize else pair)

    def merge(self, other: PairStatistics) -> PairStatistics:
        """Combine the statistics of two sets of pairs in a new object on this one's device.

        Raises:
            ValueError: if widths or `normalize` differ.
        """
        mine, theirs = (self.num_features, self.normalize), (other.num_features, other.normalize)
        if mine != theirs:
            raise ValueError(f"only statistics of one kind can be merged: (features, normalize) is {mine} and {theirs}")
        merged, device = self._copy(), self.means.device
        between = merged._move(other.count.to(device), other.means.to(device))
        merged.scatters += other.scatters.to(device)
        merged.scatters.baddbmm_(between.mT, between)
        merged.distances += other.distances.to(device)
        return merged

    def reduce(self, group: Group = None) -> PairStatistics:
        """Combine the statistics of all ranks, with the same bits on each, or copy without a process group.

        A collective: every rank has to call it.
        """
        reduced = self._copy()
        if world_size_of(group) == 1:
            return reduced
        dist.all_reduce(reduced.count, group=group)
        reduced.means = self.means * (self.count.double() / reduced.count.clamp(min=1))
        dist.all_reduce(reduced.means, group=group)
        shift = self.means - reduced.means
        reduced.scatters += self.count * shift[:, :, None] * shift[:, None, :]
        for tensor in (reduced.scatters, reduced.distances):
            dist.all_reduce(tensor, group=group)
        return reduced

    def _take(self, pair: Float[Tensor, "2 n d"]) -> None:
        means = pair.mean(1)
        between = self._move(torch.tensor(pair.shape[1], device=pair.device), means)
        rows = torch.cat([pair - means[:, None, :], between], dim=1)  # one product, and one pass over the scatter
        self.scatters.baddbmm_(rows.mT, rows)
        distances = torch.linalg.vector_norm(pair[0] - pair[1], dim=1)
        self.distances += torch.stack([distances.sum(), distances.square().sum()])

    def _move(self, count: Tensor, means: Float[Tensor, "2 d"]) -> Float[Tensor, "2 1 d"]:
        """Add the means of further pairs, and return rows with the scatter between the means."""
        total = self.count + count
        share = count.double() / total.clamp(min=1)
        shift = means - self.means
        between = (self.count * share).sqrt() * shift
        self.means += share * shift
        self.count = total
        return between[:, None, :]

    def _copy(self) -> PairStatistics:
        copy = PairStatistics(self.num_features, normalize=self.normalize, device=self.means.device)
        for name in ("count", "means", "scatters", "distances"):
            setattr(copy, name, getattr(self, name).clone())
        return copy
