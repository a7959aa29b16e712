"""What `initialize_subspaces_` must write, from the dense gradient of a dense update: slow and in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dmf.subspaces import OrthogonalMap, compressed_subspaces, one_sided_subspaces


def weight_gradient(base: nn.Module, weight: str, inputs: Any, loss: Callable[[Any], Tensor]) -> Tensor:
    """`dL/d(dW)` of a fresh dense parameter dW that is added to the named weight, in the layout of that weight."""
    frozen = base.get_parameter(weight).detach()
    update = torch.zeros_like(frozen, requires_grad=True)
    output = functional_call(base, {weight: frozen + update}, inputs)
    (gradient,) = torch.autograd.grad(loss(output), update)
    return gradient.double()


def product_of_bases(gradient: Tensor, rank: int, seed: int, sides: Literal["both", "right"]) -> tuple[Tensor, float]:
    """`U V^T` of the closed form for G (out, in), and the tolerance for float32 sums of that gradient.

    Rounding of G by eps32 times the number of summed terms turns its leading singular subspace, of h = r/2 directions
    for both sides and r for the right one, by that over the gap `(s_h - s_{h+1}) / s_1`; terms are taken as 100.
    """
    count = rank // 2 if sides == "both" else rank
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    left, right, start = u[:, :count], vh[:count].mT, OrthogonalMap(*gradient.shape, seed)
    if sides == "both":
        U, V = compressed_subspaces(left, right, start, start.transpose)
    else:
        U, V = one_sided_subspaces(right, start)
    following = s[count].item() if count < len(s) else 0.0
    gap = (s[count - 1].item() - following) / s[0].item()
    assert gap > 1e-3, f"the leading singular values do not stand out: {s[: count + 1].tolist()}"
    return U @ V.mT, 100 * torch.finfo(torch.float32).eps / gap
