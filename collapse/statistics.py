"""`ClassStatistics`: counts, means and scatter of labeled features in one pass, for any number of classes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from evaluation_hooks import check_same_order, check_unmasked

Within = Literal["full", "trace"]
TILE_ROWS = 4096
UPDATE_ROWS = 256  # 1.5 MB of float64 at d = 768: what an update reads again is still in the cache


class ClassStatistics:
    """Counts, class means and within-class scatter of features that arrive in batches.

        h_k = mean of class k,   S_W = sum_i (h_i - h_{k(i)}) (h_i - h_{k(i)})^T,   s_k = sum_{i in k} |h_i - h_k|^2

    Features of any float type are added in float64 by centered (Welford) updates, so batches may come in any order and
    be merged in any grouping. An update costs O(B d^2) for `within="full"` and O(B d) for "trace", for any number of
    classes. Classes may have no samples; averages over classes leave them out.

    Args:
        num_classes: K.
        num_features: d.
        within: "full" keeps the (d, d) matrix S_W, which `nc1` needs; "trace" keeps only the s_k, which suffice for
            everything else.
        device: where the state lives (float64 must exist there; for `reduce` the process group must reach it).

    Attributes:
        counts, means, squared_deviations: n_k (K,), h_k (K, d), s_k (K,).
        within_scatter: S_W (d, d), or None.
        norm_mean, norm_deviation: mean of |h|, and sum of its squared deviations.

    Source: Chan, Golub and LeVeque, 1979, for the merged updates.

    >>> statistics = ClassStatistics(num_classes=2, num_features=1)
    >>> statistics.update(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
    >>> statistics.means.flatten().tolist(), statistics.within_scatter.item()
    ([2.0, 5.0], 2.0)
    """

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        within: Within = "full",
        device: torch.device | str | None = None,
    ) -> None:
        for name, value in (("num_classes", num_classes), ("num_features", num_features)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}")
        if within not in ("full", "trace"):
            raise ValueError(f"`within` must be 'full' (the d x d matrix) or 'trace', got {within!r}")
        self.num_classes, self.num_features, self.within = num_classes, num_features, within
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.means = torch.zeros(num_classes, num_features, dtype=torch.float64, device=device)
        self.squared_deviations = torch.zeros(num_classes, dtype=torch.float64, device=device)
        square = (num_features, num_features)
        self.within_scatter = torch.zeros(square, dtype=torch.float64, device=device) if within == "full" else None
        self.norm_mean = torch.zeros((), dtype=torch.float64, device=device)
        self.norm_deviation = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def num_samples(self) -> int:
        """The number of features added."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """The mean of all features added, (d,)."""
        return self.counts.double() @ self.means / self.num_samples

    @property
    def observed(self) -> Tensor:
        """Which classes have samples, (K,) bool."""
        return self.counts > 0

    @property
    def rounding(self) -> float:
        """By how much means of equal features may differ: the last bits of sums over so many features."""
        squared = self.norm_mean.square() + self.norm_deviation / max(self.num_samples, 1)
        terms = max(self.num_samples, 1) * self.num_features
        return (terms * squared).sqrt().item() * torch.finfo(torch.float64).eps

    @torch.no_grad()
    def update(
        self, features: Float[Tensor, "*batch d"], labels: Int[Tensor, "*batch"], *, ignore_index: int = -100
    ) -> None:
        """Add a batch, in place.

        Args:
            features: rows of the penultimate layer, with any leading dimensions; a tensor or a NumPy array.
            labels: class indices in [0, K), of the same leading shape; a tensor, an array or a list.
            ignore_index: rows with this label are skipped (padding in token classification).

        Raises:
            TypeError: for labels that are not integers (regression has no classes).
            ValueError: for shapes that do not fit, labels out of range, or features that are not finite.
        """
        check_same_order(features=features, labels=labels)
        rows, classes = self._checked(tensor_of(features, "features"), tensor_of(labels, "labels"), ignore_index)
        if len(rows) == 0:
            return
        if not torch.stack(torch.aminmax(rows)).isfinite().all():
            raise ValueError("the features hold NaN or inf; look at the batch and the model's precision before this")
        before = self.num_samples
        tiles = zip(rows.split(UPDATE_ROWS), classes.split(UPDATE_ROWS), strict=True)
        norms = torch.cat([self._update_tile(tile.to(torch.float64, copy=True), labels) for tile, labels in tiles])
        self._take_norms(norms.mean(), (norms - norms.mean()).square().sum(), before, len(rows))

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """Combine the statistics of two sets of samples in a new object on this one's device.

        Raises:
            ValueError: if the numbers of classes or features, or `within`, differ.
        """
        self._check_same_kind(other)
        merged = self._like()
        theirs = other.counts.to(self.counts.device)
        merged.counts = self.counts + theirs
        share = theirs.double() / merged.counts.clamp(min=1)
        shift = other.means.to(self.means.device) - self.means
        merged.means = self.means + share[:, None] * shift
        merged.squared_deviations = self.squared_deviations + other.squared_deviations.to(self.means.device)
        if self.within_scatter is not None and other.within_scatter is not None:
            merged.within_scatter = self.within_scatter + other.within_scatter.to(self.means.device)
        merged._add_between(shift * (share * self.counts).sqrt()[:, None])
        merged.norm_mean, merged.norm_deviation = self.norm_mean.clone(), self.norm_deviation.clone()
        merged._take_norms(
            other.norm_mean.to(self.means.device), other.norm_deviation.to(self.means.device),
            self.num_samples, other.num_samples,
        )  # fmt: skip
        return merged

    def reduce(self, group: dist.ProcessGroup | None = None) -> ClassStatistics:
        """Combine the statistics of all ranks, with the same bits on each, or copy without a process group.

        Only sums are exchanged: class means first, then scatter about the common means.
        """
        reduced = self._like()
        for name, tensor in self._state().items():
            setattr(reduced, name, tensor.clone())
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
            return reduced
        for name, tensor in reduced._state().items():
            if name != "counts":
                tensor.zero_()
        dist.all_reduce(reduced.counts, group=group)
        reduced.means = self.means * self.counts[:, None] / reduced.counts.clamp(min=1)[:, None]
        dist.all_reduce(reduced.means, group=group)
        reduced.norm_mean = self.norm_mean * (self.num_samples / max(reduced.num_samples, 1))
        dist.all_reduce(reduced.norm_mean, group=group)
        reduced.norm_deviation = self.norm_deviation + self.num_samples * (self.norm_mean - reduced.norm_mean) ** 2
        reduced.squared_deviations = self.squared_deviations.clone()
        if self.within_scatter is not None:
            reduced.within_scatter = self.within_scatter.clone()
        reduced._add_between((self.means - reduced.means) * self.counts.double().sqrt()[:, None])
        for name in ("norm_deviation", "squared_deviations", "within_scatter"):
            if (tensor := getattr(reduced, name)) is not None:
                dist.all_reduce(tensor, group=group)
        return reduced

    def _update_tile(self, residuals: Float[Tensor, "n d"], classes: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Add a few rows, in a tensor that is overwritten, and return their norms; touch only classes that occur.

        Memory traffic is what this costs, so temporaries are reused.
        """
        norms = torch.linalg.vector_norm(residuals, dim=-1)
        present, inverse, added = classes.unique(return_inverse=True, return_counts=True)
        before = self.counts[present].double()
        total = before + added
        gathered = self.means.index_select(0, classes)
        residuals -= gathered
        sums = residuals.new_zeros(len(present), self.num_features).index_add_(0, inverse, residuals)
        # Within a class the residuals from the mean of the new rows sum to zero, so adding sqrt(before / total) times
        # the shift between the two means to each adds exactly the scatter between them: one product, flat in K.
        factor = ((1 - (before / total).sqrt()) / added)[:, None]
        residuals -= torch.index_select(sums.mul_(factor), 0, inverse, out=gathered)
        self.squared_deviations.index_add_(0, classes, torch.linalg.vector_norm(residuals, dim=-1).square_())
        self.means.index_add_(0, present, sums.div_(factor * total[:, None]))
        self.counts.index_add_(0, present, added)
        if self.within_scatter is not None:
            self.within_scatter.addmm_(residuals.mT, residuals)
        return norms

    def _checked(self, features: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        """Return rows and their classes on the state's device, without ignored ones."""
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(
                f"labels must be integer class indices, got {labels.dtype}; regression and multi-label targets have no "
                "classes to collapse to"
            )
        if features.shape[-1:] != (self.num_features,):
            raise ValueError(
                f"features must have {self.num_features} columns, got shape {tuple(features.shape)}; "
                "pass what enters the classifier, pooled"
            )
        if features.shape[:-1] != labels.shape:
            raise ValueError(
                f"every feature needs one label: features of shape {tuple(features.shape)} want labels of shape "
                f"{tuple(features.shape[:-1])}, got {tuple(labels.shape)}"
            )
        rows, classes = features.reshape(-1, self.num_features), labels.reshape(-1).to(self.counts.device).long()
        kept = classes != ignore_index
        rows = rows.to(self.counts.device)
        if not kept.all():
            rows, classes = rows[kept], classes[kept]
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < self.num_classes:
            raise ValueError(
                f"labels must lie in [0, {self.num_classes}), got {int(classes.min())} to {int(classes.max())}; "
                "is `num_classes` right, and `ignore_index`?"
            )
        return rows, classes

    def _check_same_kind(self, other: ClassStatistics) -> None:
        mine = (self.num_classes, self.num_features, self.within)
        theirs = (other.num_classes, other.num_features, other.within)
        if mine != theirs:
            raise ValueError(
                f"only statistics of one kind can be merged: (classes, features, within) is {mine} here, {theirs} there"
            )

    def _add_between(self, weighted: Float[Tensor, "K d"]) -> None:
        """Add the scatter of class means about a new mean, given as rows scaled by the root of their weights."""
        self.squared_deviations += weighted.square().sum(-1)
        if self.within_scatter is not None:
            for rows in weighted.split(TILE_ROWS):
                self.within_scatter.addmm_(rows.mT, rows)

    def _take_norms(self, mean: Tensor, deviation: Tensor, before: int, added: int) -> None:
        total = max(before + added, 1)
        shift = mean - self.norm_mean
        self.norm_deviation = self.norm_deviation + deviation + shift**2 * (before * added / total)
        self.norm_mean = self.norm_mean + shift * (added / total)

    def _state(self) -> dict[str, Tensor]:
        names = ("counts", "means", "squared_deviations", "within_scatter", "norm_mean", "norm_deviation")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    def _like(self) -> ClassStatistics:
        return ClassStatistics(self.num_classes, self.num_features, within=self.within, device=self.counts.device)


def tensor_of(values: Any, name: str) -> Tensor:
    """Return an array, a table or a list as a tensor, and a tensor as it is.

    Raises:
        TypeError: if it does not hold numbers.
        ValueError: if values are masked.
    """
    check_unmasked(values, name)
    try:
        if isinstance(values, Tensor):
            return values
        array = np.asarray(values)
        return torch.as_tensor(array if array.flags.writeable else array.copy())  # torch warns of a read-only one
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be an array of numbers, got {type(values).__name__} of other values; number class names "
            "with `numpy.unique(names, return_inverse=True)[1]`, and pass the weight of a layer, not the layer"
        ) from None
