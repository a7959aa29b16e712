"""One vector for each sample from whatever a tower returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Pooling = Literal["mean", "first", "pooler"]


def tower_features(output: Any, pooling: Pooling, mask: Tensor | None = None) -> Float[Tensor, "n d"]:
    """The features of a tower's output.

    Vectors are taken as they are. Of tokens (n, tokens, d), alone or as `last_hidden_state`, "mean" averages those
    under the mask and "first" takes the first; feature maps (n, d, height, width) are averaged. "pooler" takes
    `pooler_output`, or the projected `image_embeds` or `text_embeds`.

    Raises:
        ValueError: if the output has nothing of that kind.

    >>> tower_features(torch.arange(4.0).reshape(1, 2, 2), "mean", torch.tensor([[1, 0]]))
    tensor([[0., 1.]])
    """
    if pooling not in get_args(Pooling):
        raise ValueError(f"`pooling` must be one of {list(get_args(Pooling))}, got {pooling!r}")
    hidden = output if isinstance(output, Tensor) else _field(output, pooling)
    if hidden is None or hidden.dim() not in (2, 3, 4):
        found = list(output) if isinstance(output, Mapping) else type(output).__name__
        shape = None if hidden is None else tuple(hidden.shape)
        raise ValueError(
            f"a tower must return vectors, tokens or feature maps; pooling={pooling!r} found shape {shape} in {found}; "
            "wrap the tower in a module that returns an (n, d) tensor"
        )
    if hidden.dim() == 4:
        return hidden.mean((2, 3))
    if hidden.dim() == 2:
        return hidden
    if pooling == "first":
        return hidden[:, 0]
    if mask is None or mask.shape != hidden.shape[:2]:
        return hidden.mean(1)
    weights = mask.to(hidden)[:, :, None]
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=torch.finfo(hidden.dtype).tiny)


def _field(output: Any, pooling: Pooling) -> Tensor | None:
    names = ("pooler_output", "image_embeds", "text_embeds") if pooling == "pooler" else ("last_hidden_state",)
    found = (getattr(output, name, None) for name in names)
    return next((tensor for tensor in found if isinstance(tensor, Tensor)), None)
