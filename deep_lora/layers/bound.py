"""The bound on the norm of an update, `DeepLoraConfig.max_update_norm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from peft.utils.integrations import gather_params_ctx
from torch import Tensor

from deep_lora.functional import full_precision
from deep_lora.sharded import whole

if TYPE_CHECKING:
    from deep_lora.layers.base import DeepLoraLayer


def bound_factor(
    U: Float[Tensor, "*batch out r"],
    folded: Float[Tensor, "*batch r r"],
    V: Float[Tensor, "*batch in r"],
    bound: Float[Tensor, "*batch 1 1"],
) -> Float[Tensor, "*batch 1 1"]:
    """`1 / sqrt(1 + ||dW||_F^2 / b^2)` for `dW = U folded V^T`: the update times this has a norm below b.

    A small update stays as it is, a large one keeps its direction. `||dW||_F^2 = <U^T U folded, folded V^T V>`, so
    nothing larger than r x r is formed. Computed in float32 at least; an infinite bound gives 1.

    Source: ours (docs/few_shot.md).

    >>> U, folded, V = torch.ones(4, 1), torch.full((1, 1), 3.0), torch.ones(9, 1)  # of norm 18
    >>> round(18 * bound_factor(U, folded, V, torch.full((1, 1), 18.0)).item() ** 2, 4)
    9.0
    """
    with full_precision(U):
        U, folded, V = (tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in (U, folded, V))
        squared = ((U.mT @ U @ folded) * (folded @ (V.mT @ V))).sum((-2, -1), keepdim=True).clamp(min=0)
        return (1 + squared / bound.to(squared) ** 2).rsqrt()


def rms_singular_value(weight: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch 1 1"]:
    """The root-mean-square singular value of W, `||W||_F / sqrt(min(rows, columns))`; infinite if W is zero.

    8-bit and half-precision weights are measured in float32.

    >>> rms_singular_value(torch.eye(3)[:2] * 5)
    tensor([[5.]])
    """
    weight = whole(weight)
    weight = weight.float() if weight.dtype.itemsize == 1 else weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    norm = torch.linalg.vector_norm(weight, dim=(-2, -1), keepdim=True, dtype=dtype)
    return torch.where(norm > 0, norm / min(weight.shape[-2:]) ** 0.5, torch.inf)


@torch.no_grad()
def new_bound(
    layer: DeepLoraLayer, adapter_name: str, max_update_norm: float, *, loading: bool
) -> Float[Tensor, "1 1"] | Float[Tensor, "experts 1 1"]:
    """`max_update_norm` times the root-mean-square singular value of the layer's base weight.

    Infinite if `loading`: the adapter is about to be loaded, and brings its own.
    """
    core = layer.deep_lora_core[adapter_name]
    if loading:
        return torch.full((*core.shape[1:-2], 1, 1), torch.inf, device=core.device)
    with gather_params_ctx(list(layer.get_base_layer().parameters(recurse=False))):
        bound = max_update_norm * rms_singular_value(layer.base_matrix())
    return bound if bound.is_meta else bound.to(core.device)  # a weight without values gives a bound without one
