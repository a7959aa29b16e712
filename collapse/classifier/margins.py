"""Margins by which a sample's own class has to win, in the cosine or in the angle."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

MarginKind = Literal["cosface", "arcface"]
_LIMITS = {"cosface": (1.0, "is subtracted from a cosine and must lie in [0, 1)"),
           "arcface": (math.pi / 2, "is added to an angle and must lie in [0, pi / 2)")}  # fmt: skip


def subtract_margin(
    logits: Float[Tensor, "*batch K"], labels: Int[Tensor, "*batch"], amount: float | Tensor
) -> Float[Tensor, "*batch K"]:
    """Subtract `amount` from the logit of each sample's own class, except for negative labels (padding).

    Source: the additive cosine margin of CosFace (Wang et al., CVPR 2018), `amount = scale * margin`.

    >>> subtract_margin(torch.zeros(2, 2), torch.tensor([1, -100]), 0.5)
    tensor([[ 0.0000, -0.5000],
            [ 0.0000,  0.0000]])
    """
    own = labels.clamp(min=0)[..., None]
    taken = (torch.as_tensor(amount).to(logits) * (labels >= 0))[..., None]
    return logits.scatter_add(-1, own, -taken.to(logits.dtype))


def add_angular_margin(
    logits: Float[Tensor, "*batch K"], labels: Int[Tensor, "*batch"], scale: float | Tensor, margin: float
) -> Float[Tensor, "*batch K"]:
    """Replace `s cos(t)` of each sample's own class by `s cos(t + margin)`, except for negative labels (padding).

    Where `t + margin` is beyond pi, and the cosine would rise again, it is `s (cos(t) - margin sin(margin))`.

    Source: the additive angular margin of ArcFace (Deng et al., CVPR 2019); the continuation beyond pi is that of the
    authors' code.

    >>> add_angular_margin(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), 2.0, torch.pi / 6)
    tensor([[ 2., -1.]])
    """
    own = labels.clamp(min=0)[..., None]
    cosine = (logits.gather(-1, own) / scale).clamp(-1, 1)
    # At a cosine of 1 the sine has no finite gradient; one step of rounding below, it has.
    sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps ** 2).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    lowered = torch.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))
    change = torch.where(labels[..., None] >= 0, scale * (lowered - cosine), 0.0)
    return logits.scatter_add(-1, own, change.to(logits.dtype))


def with_margin(
    logits: Float[Tensor, "*batch K"],
    labels: Int[Tensor, "*batch"],
    scale: float | Tensor,
    margin: float,
    kind: MarginKind = "cosface",
) -> Float[Tensor, "*batch K"]:
    """Subtract the margin from the logit `scale * cosine` of each sample's own class.

    Args:
        logits: of a normalized head.
        labels: of the samples; negative ones (padding) have no margin.
        scale: of the cosines.
        margin: in [0, 1) for "cosface", of the cosine; in [0, pi / 2) for "arcface", of the angle in radians.
        kind: see `subtract_margin` and `add_angular_margin`.

    Raises:
        ValueError: unless there is one integer label for each sample.

    >>> with_margin(torch.zeros(1, 2), torch.tensor([0]), 10.0, 0.35)
    tensor([[-3.5000,  0.0000]])
    """
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        raise ValueError(
            f"a margin needs the class index of each sample: logits of shape {tuple(logits.shape)} want integer labels "
            f"of shape {tuple(logits.shape[:-1])}, got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if kind == "arcface":
        return add_angular_margin(logits, labels, scale, margin)
    return subtract_margin(logits, labels, scale * margin)


def check_margin(margin: float, kind: str) -> None:
    """Raise unless the kind exists and the margin lies in its range.

    Raises:
        ValueError: for another kind, or a margin out of its range.
    """
    if kind not in get_args(MarginKind):
        raise ValueError(f"`margin_kind` must be one of {list(get_args(MarginKind))}, got {kind!r}")
    limit, meaning = _LIMITS[kind]
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < limit:
        raise ValueError(f"`margin` {meaning}, got {margin!r}")
