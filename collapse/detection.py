"""Samples that belong to no class: a score of how far features are from what neural collapse expects of the data."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from collapse.statistics import ClassStatistics, tensor_of


@torch.no_grad()
def nci_score(
    features: Any,
    training: ClassStatistics | Any,
    weight: Any,
    bias: Any = None,
    *,
    norm_weight: float = 0.0,
) -> Float[Tensor, " n"]:
    """Score how well samples fit the classes: lower for what is out of distribution (NCI).

        w_c . (h - h_G) / |h - h_G|  +  norm_weight |h|_1,    c = argmax_k (w_k . h + b_k)

    In a collapsed classifier the centered features of a class point along its class vector (NC3), and lie far from the
    origin. Choose a threshold by the scores of held-out data of the classes, such as their 5 % quantile.

    Args:
        features: (n, d), what enters the classifier, of the samples to score.
        training: the training data's features (their global mean is all that is used), or `ClassStatistics` of them.
        weight: (K, d), rows of the classifier; for a `NormalizedClassifier` its `class_vectors()`, with unit features.
        bias: (K,), of the classifier, if it has one.
        norm_weight: at least 0, alpha in the source, tuned there on held-out data for each model; 0 leaves the norm
            out.

    Returns:
        One score for each sample, in float64.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, training data without rows, or a negative
            `norm_weight`.

    Source: Liu and Qin, CVPR 2025, arXiv:2311.01479 (the NCI score; there `norm_weight` is called alpha).

    >>> training, weight = torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> nci_score([[3.0, 0.0], [3.0, 4.0]], training, weight)
    tensor([1.0000, 0.6000], dtype=torch.float64)
    """
    if isinstance(norm_weight, bool) or not 0 <= norm_weight < math.inf:
        raise ValueError(f"`norm_weight` must be a number of at least 0, got {norm_weight!r}; tune it on held-out data")
    rows = _matrix("features", features)
    vectors = _matrix("weight", weight).to(rows.device)
    center = _mean_of(training).to(rows.device)
    offset = rows.new_zeros(len(vectors)) if bias is None else tensor_of(bias, "bias").to(rows)
    if vectors.shape[1:] != rows.shape[1:] or center.shape != rows.shape[1:] or offset.shape != vectors.shape[:1]:
        raise ValueError(
            f"features {tuple(rows.shape)}, training features of width {center.numel()}, weight {tuple(vectors.shape)} "
            f"and bias {tuple(offset.shape)} do not fit; they are (n, d), d, (K, d) and (K,)"
        )
    classes = (rows @ vectors.mT + offset).argmax(1)
    centered = rows - center
    lengths = torch.linalg.vector_norm(centered, dim=1)
    along = (centered * vectors[classes]).sum(1) / torch.where(lengths > 0, lengths, torch.inf)
    return along + norm_weight * rows.abs().sum(1) if norm_weight else along


def _mean_of(training: ClassStatistics | Any) -> Float[Tensor, " d"]:
    if not isinstance(training, ClassStatistics):
        return _matrix("training", training).mean(0)
    if training.num_samples == 0:
        raise ValueError("the statistics of the training data hold no samples; call `update` first")
    return training.mean


def _matrix(name: str, values: Any) -> Float[Tensor, "n d"]:
    rows = tensor_of(values, name)
    if rows.dim() != 2 or not rows.is_floating_point() or len(rows) == 0 or not rows.isfinite().all():
        raise ValueError(
            f"`{name}` must be a finite matrix of numbers with rows, got {rows.dtype} of shape {tuple(rows.shape)}; "
            "pass what enters the classifier, pooled, and look at NaN and inf first"
        )
    return rows.detach().double()
