"""The update of Deep LoRA by its definition, entry by entry in float64: slow, and free of the package's own code.

    dW = kappa^n U core[n-1] ... core[0] V^T - eps^n U V^T

(the second term only if the start is subtracted). Only the raw tensors of an adapter and three numbers go in.
"""

from __future__ import annotations

import torch
from torch import Tensor


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product by explicit loops over rows and columns."""
    rows, columns = a.shape[0], b.shape[1]
    out = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            out[i, j] = sum(a[i, k].item() * b[k, j].item() for k in range(a.shape[1]))
    return out


def dense_update(U: Tensor, core: Tensor, V: Tensor, *, kappa: float, eps: float, subtract: bool = True) -> Tensor:
    """dW (out, in) of one adapter: U (out, r), core (n, r, r) in order of action, V (in, r)."""
    U, core, V = (tensor.detach().double() for tensor in (U, core, V))
    chain = torch.eye(core.shape[-1], dtype=torch.float64)
    for factor in core:
        chain = multiply(factor, chain)
    update = kappa ** len(core) * multiply(multiply(U, chain), V.T)
    return update - eps ** len(core) * multiply(U, V.T) if subtract else update


def dense_expert_updates(U: Tensor, core: Tensor, V: Tensor, **numbers: float | bool) -> Tensor:
    """dW (experts, out, in): one independent update for each expert; core is (n, experts, r, r)."""
    updates = [dense_update(U[e], core[:, e], V[e], **numbers) for e in range(U.shape[0])]  # type: ignore[arg-type]
    return torch.stack(updates)
