"""Losses to compare with, which also drive features towards collapse.

`scale` multiplies the cosines, as everywhere in this package; papers that divide by a temperature tau mean
`scale = 1 / tau`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from collapse.classifier import normalized_logits

__all__ = [
    "nonl_loss",
    "ntce_loss",
    "regularized_cross_entropy",
]


def regularized_cross_entropy(
    logits: Float[Tensor, "n K"],
    labels: Int[Tensor, " n"],
    features: Float[Tensor, "n d"],
    weight: Float[Tensor, "K d"],
    strength: float = 1e-4,
) -> Float[Tensor, ""]:
    """Add penalties to the cross entropy of a plain head: `CE + s/2 |W|^2 + s/2 sum_i |h_i|^2`.

    Source: the regularized baseline of Yaras et al., NeurIPS 2022. As in their code, the features are summed over the
    batch. Their code also renormalizes this baseline's classifier rows; here they stay free.

    Args:
        logits: of the plain head.
        features: the input of the head.
        weight: its rows.
        strength: s, at least 0.

    Raises:
        ValueError: for a negative strength.

    >>> one = torch.ones(1, 1)
    >>> regularized_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), one, one, strength=2.0)
    tensor(2.6931)
    """
    if strength < 0:
        raise ValueError(f"`strength` must not be negative, got {strength!r}; 1e-4 is the authors'")
    penalty = weight.float().square().sum() + features.float().square().sum()
    return functional.cross_entropy(logits, labels) + strength / 2 * penalty


def ntce_loss(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    weight: Float[Tensor, "K d"],
    scale: float | Tensor,
) -> Float[Tensor, ""]:
    """Compute the normalized cross entropy over the batch, with class vectors as anchors.

        mean_i -log( exp(s w_{y_i} . u_i) / sum_j exp(s w_{y_i} . u_j) ),   u and w unit rows, s the scale

    Each sample competes with the other samples of the batch for its class vector, not with the other classes.

    Source: "Neural collapse by design", ICML 2026, arXiv:2605.20302 (NTCE).

    Raises:
        ValueError: if the batch holds fewer than two samples.

    >>> ntce_loss(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), 1.0)
    tensor(0.3133)
    """
    anchored = _anchored_logits(features, labels, weight, scale)
    return functional.cross_entropy(anchored, torch.arange(len(labels), device=labels.device))


def nonl_loss(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    weight: Float[Tensor, "K d"],
    scale: float | Tensor,
) -> Float[Tensor, ""]:
    """Compute `ntce_loss` with only the samples of other classes in the denominator.

        mean_i ( -s w_{y_i} . u_i + log sum_{j: y_j != y_i} exp(s w_{y_i} . u_j) )

    It is not bounded below by zero.

    Source: "Neural collapse by design", ICML 2026, arXiv:2605.20302 (NONL).

    Raises:
        ValueError: if the batch holds samples of only one class.

    >>> nonl_loss(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), 1.0)
    tensor(-1.)
    """
    anchored = _anchored_logits(features, labels, weight, scale)
    same = labels[:, None] == labels[None, :]
    if bool(same.all()):
        raise ValueError(
            "NONL contrasts classes: the batch needs samples of at least two; shuffle, or take larger batches"
        )
    others = anchored.masked_fill(same, -torch.inf).logsumexp(1)
    return (others - anchored.diagonal()).mean()


def _anchored_logits(features: Tensor, labels: Tensor, weight: Tensor, scale: float | Tensor) -> Tensor:
    """Entry (i, j): similarity of sample j to the class vector of sample i."""
    if len(features) < 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"a loss over the batch needs at least two rows and one label for each, got features of shape "
            f"{tuple(features.shape)} and labels of shape {tuple(labels.shape)}"
        )
    return normalized_logits(weight[labels], features, scale)
