"""How the classes separate from layer to layer of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class LogLinearFit(NamedTuple):
    """`value_l = scale * factor^l`, fitted to logarithms, and the share of their variance that it explains."""

    factor: float
    scale: float
    r_squared: float


def class_separation(features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """`D = tr(Sigma_W) / tr(Sigma_B)`: variation inside the classes relative to that of their means.

    Sigma_W is averaged over samples; Sigma_B over classes, about the mean of all samples.

    Args:
        features: one row a sample.
        labels: class of each sample, 0 to K-1, each class at least once.

    Raises:
        ValueError: for unequal lengths, fewer than two classes, or a class without samples.

    Source: the layerwise metric of Yaras et al., arXiv:2306.01154 (progressive collapse).

    >>> class_separation(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.0400)
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"need features (n, d) and n labels, got shapes {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    counts = torch.bincount(labels)
    if len(counts) < 2 or not bool((counts > 0).all()):
        raise ValueError(
            f"labels must be 0 to K-1 with at least two classes and a sample of each, got counts {counts.tolist()}"
        )
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, labels, features)
    means = sums / counts[:, None]
    within = (features - means[labels]).square().sum() / len(features)
    between = (means - features.mean(0)).square().sum() / len(counts)
    return within / between


def layerwise_collapse(features: Sequence[Float[Tensor, "n _"]], labels: Int[Tensor, " n"]) -> Float[Tensor, " layers"]:
    """D_l of every layer: `class_separation` of each entry of `features` (inputs first, then the layers).

    >>> x = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    >>> layerwise_collapse([x, x.round(decimals=-1)], torch.tensor([0, 0, 1, 1]))
    tensor([0.0400, 0.0000])
    """
    return torch.stack([class_separation(layer, labels) for layer in features])


def log_linear_fit(values: Float[Tensor, " layers"]) -> LogLinearFit:
    """Least-squares line through `log value_l` over l = 0, 1, ...: does D_l fall by one factor from layer to layer?

    Raises:
        ValueError: for fewer than two values, or values that are not positive and finite.

    Source: the progressive collapse experiment of Yaras et al., arXiv:2306.01154.

    >>> fit = log_linear_fit(torch.tensor([8.0, 4.0, 2.0]))
    >>> round(fit.factor, 4), round(fit.scale, 4), round(fit.r_squared, 4)
    (0.5, 8.0, 1.0)
    """
    if values.ndim != 1 or len(values) < 2 or not bool((values > 0).all() and torch.isfinite(values).all()):
        raise ValueError(
            f"a log-linear fit needs at least two positive finite values in a vector, got {values.tolist()}"
        )
    logs = values.detach().double().log()
    layer = torch.arange(len(logs), dtype=logs.dtype, device=logs.device)
    centred, deviation = layer - layer.mean(), logs - logs.mean()
    slope = (centred * deviation).sum() / centred.square().sum()
    total = deviation.square().sum()
    explained = 1.0 if total == 0 else (1 - (deviation - slope * centred).square().sum() / total).item()
    return LogLinearFit(slope.exp().item(), (logs.mean() - slope * layer.mean()).exp().item(), explained)
