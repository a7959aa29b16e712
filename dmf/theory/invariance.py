"""The invariant subspaces of gradient descent: what the theory predicts, and how far a trajectory is from it.

Gradient descent on `1/2 ||W_L ... W_1 - Phi||_F^2`, rank(Phi) = r, from d x d factors `eps_l * orthogonal` keeps

    W_l(t) = U_l blockdiag(core_l(t), rho_l(t) I_m) V_l^T,   V_{l+1} = U_l,   m = d - 2r,

so only 2r directions learn; the other m shrink together, by a recursion that does not depend on Phi (Yaras et al., ICML
2024, the theorem of the invariant subspace).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class InvarianceResidual(NamedTuple):
    """The distance of every factor from the form of the theorem, and the common value rho_l of its still directions."""

    coupling: Float[Tensor, " depth"]
    """Frobenius norm of the blocks between moving and still directions; 0 in theory."""
    anisotropy: Float[Tensor, " depth"]
    """Frobenius distance of the still block from `rho_l I`; 0 in theory."""
    rho: Float[Tensor, " depth"]
    """Mean diagonal of the still block."""


def rho_recursion(
    init_scales: Sequence[float], step: float, num_steps: int, *, weight_decay: float = 0.0
) -> Float[Tensor, "steps_plus_one depth"]:
    """Compute the common value of the still directions of every factor, at every step of gradient descent.

        rho_l(t+1) = rho_l(t) (1 - eta lambda - eta prod_{k != l} rho_k(t)^2),   rho_l(0) = eps_l

    Args:
        init_scales: eps_1, ..., eps_L.
        step: eta of descent on the *sum* `1/2 ||f - Phi||_F^2`; for a mean over n entries, the learning rate over n.
        num_steps: at least 0.
        weight_decay: lambda of `W <- (1 - eta lambda) W - eta grad`: `weight_decay` of torch's SGD for the sum; for a
            mean over n entries with learning rate n eta, pass lambda / n to SGD.

    Returns:
        In float64; row t is the state after t steps.

    Raises:
        ValueError: if there is no scale or the number of steps is negative.

    Source: Yaras et al., ICML 2024, the theorem of the invariant subspace.

    >>> rho_recursion([1.0, 1.0], step=0.5, num_steps=1)
    tensor([[1.0000, 1.0000],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    if len(init_scales) == 0 or num_steps < 0:
        raise ValueError(
            f"rho_recursion needs the init_scale of every factor and at least 0 steps, got {list(init_scales)} and "
            f"{num_steps}"
        )
    states = [[float(scale) for scale in init_scales]]
    for _ in range(num_steps):
        rho = states[-1]
        others = [math.prod(rho[:level] + rho[level + 1 :]) ** 2 for level in range(len(rho))]
        states.append(
            [value * (1 - step * weight_decay - step * other) for value, other in zip(rho, others, strict=True)]
        )
    return torch.tensor(states, dtype=torch.float64)


def compression_error(rho: Float[Tensor, "*steps depth"], still_dimension: int) -> Float[Tensor, "*steps"]:
    """Return `||W(t) - W_compressed(t)||_F^2 = m prod_l rho_l(t)^2`, the squared distance of wide and compressed.

    Args:
        rho: from `rho_recursion`.
        still_dimension: m = d - 2r.

    Source: Yaras et al., ICML 2024, the error of the compressed factorization. It never exceeds its start
    `m prod_l eps_l^2` while descent is stable.

    >>> compression_error(torch.tensor([0.5, 0.1]), still_dimension=4)
    tensor(0.0100)
    """
    return still_dimension * rho.square().prod(dim=-1)


def invariance_residual(
    factors: Sequence[Float[Tensor, "d d"]], start: Sequence[Float[Tensor, "d d"]], moving: Float[Tensor, "d k"]
) -> InvarianceResidual:
    """Measure how far the factors of a trajectory are from the form that the theorem gives them.

    With V_1 = [moving, its complement], carried through the start (`U_l = W_l(0) V_l / eps_l`, `V_{l+1} = U_l`), the
    blocks of `U_l^T W_l V_l` are measured.

    Args:
        factors: W_1(t), ..., W_L(t), square and of one size (the hidden layers of a network).
        start: W_1(0), ..., W_L(0), each a multiple of an orthogonal matrix.
        moving: basis of the directions in which W_1 moves, such as `CompressedDMF.from_gradient(...).right`.

    Raises:
        ValueError: if the numbers of factors differ, or a factor is not square with as many rows as `moving`.

    Source: Yaras et al., ICML 2024, the theorem of the invariant subspace.

    >>> start = [0.5 * torch.eye(4)] * 2
    >>> invariance_residual(start, start, torch.eye(4)[:, :2]).rho
    tensor([0.5000, 0.5000])
    """
    size = moving.shape[0]
    if len(factors) != len(start) or any(factor.shape != (size, size) for factor in [*factors, *start]):
        shapes = [tuple(factor.shape) for factor in factors]
        raise ValueError(
            f"invariance_residual needs as many factors as starts, all of shape {size} x {size} like the rows of "
            f"`moving`; got {len(start)} starts and factors of shapes {shapes}; leave out layers that are not square"
        )
    count = moving.shape[1]
    into = torch.linalg.qr(moving.detach(), mode="complete").Q
    rows = []
    for factor, first in zip(factors, start, strict=True):
        out = first.detach() @ into * (size**0.5 / first.detach().norm())
        blocks = out.mT @ factor.detach() @ into
        still = blocks[count:, count:]
        rho = still.diagonal().mean() if count < size else blocks.new_zeros(())
        eye = torch.eye(size - count, dtype=still.dtype, device=still.device)
        coupling = (blocks[:count, count:].square().sum() + blocks[count:, :count].square().sum()).sqrt()
        rows.append(torch.stack([coupling, (still - rho * eye).norm(), rho]))
        into = out
    return InvarianceResidual(*torch.stack(rows, dim=1))
