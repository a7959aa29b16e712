"""`PairObserver`: the embeddings that a contrastive model returns while it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evaluation_hooks import Observer
from modality.losses.gather import gather_features, world_size_of
from modality.metrics.gap import modality_gap
from modality.metrics.retrieval import check_ks, margin, recall_at_k
from modality.metrics.statistics import PairStatistics
from modality.output import paired_embeddings


class PairObserver(Observer):
    """Collect the pairs of every evaluation batch with a forward hook, and measure them.

    The statistics are those of all pairs; retrieval and margin are those of a pool, the first rows of each process.

    Args:
        model: returns `x_embeds` and `y_embeds`, or `image_embeds` and `text_embeds`.
        pool_size: rows kept over all processes; with 0 there is no retrieval and no margin.
        ks: of recall at k.
        valid_rows: how many of a batch's rows count (a distributed loader repeats some to fill its last batch).

    >>> observer = PairObserver(nn.Identity(), pool_size=2)
    >>> observer.take(torch.eye(2), torch.eye(2))
    >>> observer.metrics()["x_to_y_recall@1"]
    1.0
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pool_size: int = 1000,
        ks: Sequence[int] = (1, 5),
        valid_rows: Callable[[int], int] | None = None,
    ) -> None:
        if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 0:
            raise ValueError(f"`pool_size` must be a number of pairs, or 0 for no retrieval, got {pool_size!r}")
        if pool_size:
            check_ks(ks)
        self.pool_size, self.ks = pool_size, tuple(ks)
        self._valid_rows = valid_rows or (lambda rows: rows)
        super().__init__(model)

    def hooks(self) -> list[RemovableHandle]:
        return [self.model.register_forward_hook(self._observe, with_kwargs=True)]

    def forget(self) -> None:
        self.statistics: PairStatistics | None = None
        self.skipped = 0
        self._pool: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @torch.no_grad()
    def take(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], ids: Tensor | None = None) -> None:
        """Add a batch of pairs, which may be empty; a batch with NaN or inf is counted as skipped instead."""
        if self.statistics is None:  # also from an empty batch: every process must take part in the reduction
            self.statistics = PairStatistics(x.shape[1], device=_float64_device(x))
            self._keep(x[:0], y[:0], None if ids is None else ids[:0])
        if len(x) == 0:
            return
        if not (x.isfinite().all() and y.isfinite().all()):
            self.skipped += 1
            return
        self.statistics.update(x.detach(), y.detach())
        wanted = -(-self.pool_size // world_size_of()) - sum(len(kept) for kept, _, _ in self._pool)
        if wanted > 0:
            self._keep(x[:wanted], y[:wanted], None if ids is None else ids[:wanted])

    def metrics(self) -> dict[str, float]:
        """Compute all metrics of the pairs of all processes, or none for fewer than two pairs. A collective."""
        if self.statistics is None:
            return {}
        reduced = self.statistics.reduce()
        if reduced.num_pairs < 2:
            return {}
        return modality_gap(reduced) | (self._retrieval() if self.pool_size else {})

    def _keep(self, x: Tensor, y: Tensor, ids: Tensor | None) -> None:
        self._pool.append((x.detach().clone(), y.detach().clone(), None if ids is None else ids.clone()))

    def _retrieval(self) -> dict[str, float]:
        x = gather_features(torch.cat([batch[0] for batch in self._pool]))
        y = gather_features(torch.cat([batch[1] for batch in self._pool]))
        ids = None
        if all(batch[2] is not None for batch in self._pool):
            ids = gather_features(torch.cat([batch[2] for batch in self._pool if batch[2] is not None]))
        return {"margin": margin(x, y, ids=ids)} | recall_at_k(x, y, self.ks, x_ids=ids)

    def _observe(self, module: nn.Module, args: Any, inputs: dict[str, Any], output: Any) -> None:
        if module.training or not self.is_watching:
            return
        pair = paired_embeddings(output)
        if pair is None:
            self.skipped += 1
            return
        rows = self._valid_rows(len(pair[0]))
        ids = inputs.get("ids")
        self.take(pair[0][:rows], pair[1][:rows], None if ids is None else ids[:rows])


def _float64_device(x: Tensor) -> torch.device:
    return torch.device("cpu") if x.device.type == "mps" else x.device
