"""`PairObserver`: the embeddings that a contrastive model returns while it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evaluation_hooks import Observer
from modality.losses.gather import gather_features, world_size_of
from modality.metrics.gap import modality_gap
from modality.metrics.ranking import check_ks
from modality.metrics.retrieval import margin, recall_at_k
from modality.metrics.statistics import PairStatistics
from modality.output import are_paired, paired_embeddings

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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
        with_ids = self._join_others()
        if self.statistics is None:
            return {}
        reduced = self.statistics.reduce()
        if reduced.num_pairs < 2:
            return {}
        return modality_gap(reduced) | (self._retrieval(with_ids) if self.pool_size else {})

    def _join_others(self) -> bool:
        """Take part with no pairs if only others saw some, and tell whether all pairs have ids. A collective."""
        with_ids = all(ids is not None for _, _, ids in self._pool)
        if world_size_of() == 1:
            return with_ids
        width, kind = (self._pool[0][0].shape[1], _DTYPES.index(self._pool[0][0].dtype)) if self._pool else (0, 0)
        parameter = next(self.model.parameters(), None)
        shared = torch.tensor([width, kind, not with_ids], device=None if parameter is None else parameter.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        width, kind, without_ids = shared.tolist()
        if self.statistics is None and width:
            empty = torch.empty(0, width, dtype=_DTYPES[kind], device=shared.device)
            self.take(empty, empty, None if without_ids else shared[:0])
        return not without_ids

    def _keep(self, x: Tensor, y: Tensor, ids: Tensor | None) -> None:
        self._pool.append((x.detach().clone(), y.detach().clone(), None if ids is None else ids.clone()))

    def _retrieval(self, with_ids: bool) -> dict[str, float]:
        x = gather_features(torch.cat([batch[0] for batch in self._pool]))
        y = gather_features(torch.cat([batch[1] for batch in self._pool]))
        ids = None
        if with_ids:
            ids = gather_features(torch.cat([batch[2] for batch in self._pool if batch[2] is not None]))
        return {"margin": margin(x, y, ids=ids)} | recall_at_k(x, y, self.ks, x_ids=ids)

    def _observe(self, module: nn.Module, args: Any, inputs: dict[str, Any], output: Any) -> None:
        if module.training or not self.is_watching:
            return
        pair = paired_embeddings(output)
        if pair is None or not are_paired(*pair):
            self.skipped += 1
            return
        rows = self._valid_rows(len(pair[0]))
        ids = inputs.get("ids")
        self.take(pair[0][:rows], pair[1][:rows], None if ids is None else ids[:rows])


def _float64_device(x: Tensor) -> torch.device:
    return torch.device("cpu") if x.device.type == "mps" else x.device
