"""Losses that Trainer computes instead of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.job import IGNORED


def balanced_weights(counts: Mapping[str, int]) -> Float[Tensor, " classes"]:
    """Return `n / (classes n_class)`: the weights over all rows have the mean 1, and those of each class one sum.

    >>> balanced_weights({"a": 3, "b": 1})
    tensor([0.6667, 2.0000])
    """
    numbers = torch.tensor([max(count, 1) for count in counts.values()], dtype=torch.float32)
    return sum(counts.values()) / (len(numbers) * numbers)


def weighted_loss(weights: Float[Tensor, " classes"]) -> Callable[..., Tensor]:
    """Return the cross entropy with a weight for each class, as Trainer takes it: a sum over the items of a step."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        kept = labels != IGNORED
        rows = nn.functional.cross_entropy(outputs["logits"][kept].float(), labels[kept], reduction="none")
        total = (rows * weights.to(rows.device)[labels[kept]]).sum()
        return total / (kept.sum() if num_items_in_batch is None else num_items_in_batch)

    return loss
