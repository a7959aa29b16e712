"""The update of one weight as pure functions of its tensors; forward, merge, export and tests all call these."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dmf.functional import chain_product

LARGEST_RATE_SCALE = 80.0
# At the default start compressed adapters store U, V and cores smaller by this; kappa makes up for it in the cores,
# `Update.outer_scale` in U and V. A step of Adam then moves the update far enough at LoRA's usual rates. A power of
# two, so that nothing is rounded. Chosen by docs/migration.md, "Rate and rank".
STORED_SCALE = 8.0


def auto_core_scale(rank: int, init_scale: float) -> float:
    """Return kappa of a compressed adapter on a linear layer: `min(80, 1 / (2 eps^2)) / r`.

    An Adam step on an r x r core has spectral norm up to r times the rate, hence 1/r: one rate suits all ranks. 80/r
    turns LoRA's usual rate 1e-3 into steps of 0.08 in spectral norm, as a small start needs to leave its plateau; a
    large one (eps > 0.08) has none and takes steps of `rate / (2 eps^2)`. Both constants are ours, by experiment:
    docs/few_shot.md.

    >>> auto_core_scale(8, 1e-3), auto_core_scale(8, 0.5)
    (10.0, 0.25)
    """
    return min(LARGEST_RATE_SCALE, 0.5 / init_scale / init_scale) / rank  # a square could underflow to 0


def fold_cores(
    core: Float[Tensor, "n *batch r r"],
    core_scale: float,
    start: Float[Tensor, ""] | None = None,
    *,
    transposed: bool = False,
) -> Float[Tensor, "*batch r r"]:
    """Multiply the cores to the r x r middle of the update, `kappa^n (core[n-1] ... core[0] - start^n I)`.

    Half precision is multiplied in float32 and autocast is off: eps^n leaves the range of half precision, and r x r
    products cost nothing.

    Args:
        core: stored cores in order of action; n = 0 stands for the identity.
        core_scale: kappa.
        start: what every core's diagonal held at the start, in the cores' own rounding; the difference is then exactly
            zero for a fresh adapter. None subtracts nothing.
        transposed: fold the transposed chain (for a tied output head, which acts in the other direction).

    Source: Yaras et al., ICML 2024, Deep LoRA; kappa and the subtraction are ours.

    >>> fold_cores(2 * torch.eye(2).expand(3, 2, 2), 0.5, start=torch.tensor(2.0))
    tensor([[0., 0.],
            [0., 0.]])
    """
    with full_precision(core):
        if core.shape[0] == 0:
            eye = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
            product = eye + core.sum(0)  # an empty sum; it keeps the parameter in the graph, as DDP demands
        else:
            product = chain_product(_scaled(core, core_scale))
        if start is not None:
            eye = torch.eye(core.shape[-1], dtype=product.dtype, device=product.device)
            product = torch.addcmul(product, eye, start_product(start, core_scale, core.shape[0]), value=-1)
        return (product.mT if transposed else product).to(core.dtype)


def fold_differences(
    core: Float[Tensor, "n *batch r r"], core_scale: float, start: Float[Tensor, ""], *, transposed: bool = False
) -> Float[Tensor, "*batch r r"]:
    """Multiply cores that are stored as differences from `start I` to the middle of the update; nothing cancels.

    With `s = kappa start` and `d_l = kappa core[l-1]`, `P_n = (s I + d_n) ... (s I + d_1) - s^n I` is found by

        P_1 = d_1,    P_l = (s I + d_l) P_{l-1} + s^{l-1} d_l,

    which is exactly zero where all differences are, in every precision.

    Args:
        core: stored differences in order of action, at least one.
        core_scale: kappa.
        start: what was taken from every core's diagonal; subtracted from the product too.
        transposed: fold the transposed chain (for a tied output head, which acts in the other direction).

    Source: Yaras et al., ICML 2024, Deep LoRA; kappa, the subtraction and the differences are ours.

    >>> fold_differences(torch.eye(2).expand(2, 2, 2), 1.0, torch.tensor(2.0))  # 3 * 3 - 2 * 2
    tensor([[5., 0.],
            [0., 5.]])
    """
    with full_precision(core):
        first, *others = _scaled(core, core_scale)
        s = _scaled(start, core_scale)
        product, power = first, s
        for difference in others:
            product = torch.addcmul(torch.addcmul(difference @ product, s, product), power, difference)
            power = power * s
        return (product.mT if transposed else product).to(core.dtype)


def start_product(start: Float[Tensor, ""], core_scale: float, num_cores: int) -> Float[Tensor, ""]:
    """Compute `(kappa start)^n` with the roundings of `fold_cores` on the cores `start I`.

    >>> start_product(torch.tensor(0.05), 10.0, 3)
    tensor(0.1250)
    """
    return reduce(torch.mul, [_scaled(start, core_scale)] * num_cores)


def _scaled(stored: Tensor, core_scale: float) -> Tensor:
    return (stored if stored.dtype == torch.float64 else stored.float()) * core_scale


def cores_at(core: Float[Tensor, "n *batch r r"], start: Float[Tensor, ""] | float, tolerance: float = 0.0) -> bool:
    """Tell whether every core is `start I`, exactly off the diagonal and up to a relative tolerance on it.

    >>> cores_at(2 * torch.eye(2).expand(3, 2, 2), 2.0), cores_at(torch.ones(3, 2, 2), 1.0)
    (True, False)
    """
    eye = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
    return torch.allclose(core, start * eye, rtol=tolerance, atol=0.0)


def delta_weight(
    U: Float[Tensor, "*batch out r"], folded: Float[Tensor, "*batch r r"], V: Float[Tensor, "*batch in r"]
) -> Float[Tensor, "*batch out in"]:
    """Form the dense `dW = U folded V^T`; on CPUs half precision is multiplied in float32 (else slow and inexact)."""
    if U.device.type == "cpu" and U.dtype in (torch.float16, torch.bfloat16):
        return (U.float() @ folded.float() @ V.float().mT).to(U.dtype)
    return U @ folded @ V.mT


def add_low_rank_update(
    result: Float[Tensor, "*batch out"],
    projected: Float[Tensor, "*batch r"],
    folded: Float[Tensor, "r r"],
    U: Float[Tensor, "out r"],
) -> Float[Tensor, "*batch out"]:
    """Return `result + (x V) folded^T U^T`; one matrix product accumulates onto `result` where dtypes allow it."""
    middle = projected @ folded.mT
    if result.dtype != middle.dtype:
        return result + F.linear(middle, U)
    return torch.addmm(rows_of(result), rows_of(middle), transposed_factor(U)).reshape(result.shape)


Factors = tuple[Tensor, Tensor, Tensor]


def side_by_side(factors: Sequence[Factors]) -> Factors:
    """Write several updates `(U, folded, V)` of one weight as a single one, whose rank is the sum of theirs.

    >>> U, folded, V = torch.ones(2, 1), torch.ones(1, 1), torch.ones(3, 1)
    >>> torch.equal(delta_weight(*side_by_side([(U, folded, V)] * 2)), 2 * delta_weight(U, folded, V))
    True
    """
    if len(factors) == 1:
        return factors[0]
    U, folded, V = zip(*factors, strict=True)
    return torch.cat(U, dim=-1), torch.block_diag(*folded), torch.cat(V, dim=-1)


def two_factors(factors: Factors) -> tuple[Float[Tensor, "*batch out r"], Float[Tensor, "*batch in r"]]:
    """Return `left = U folded` and `right = V` with `dW = left right^T`, in float64 on the CPU (some devices lack it).

    >>> U, folded, V = torch.ones(2, 1), 3 * torch.ones(1, 1), torch.ones(3, 1)
    >>> left, right = two_factors((U, folded, V))
    >>> torch.equal(left @ right.mT, delta_weight(U, folded, V).double())
    True
    """
    U, folded, V = (tensor.detach().cpu().double() for tensor in factors)
    return U @ folded, V


def transposed_factor(factor: Float[Tensor, "features r"]) -> Float[Tensor, "r features"]:
    """Transpose a tall factor, laid out row by row on the CPU.

    The copy is small. It makes the products with (tokens x features) matrices, and autograd's products for the
    gradient of the factor, run in the order of operands in which CPU libraries are fast at small r.
    """
    return factor.mT.contiguous() if factor.device.type == "cpu" else factor.mT


def rows_of(x: Float[Tensor, "*batch features"]) -> Float[Tensor, "rows features"]:
    """Flatten all leading dimensions into one."""
    return x.reshape(-1, x.shape[-1])


def add_to_weight(weight: Float[Tensor, "*shape"], update: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `W + dW` in the dtype of W; 8-bit floats are added in the precision of dW and clamped to their range.

    >>> add_to_weight(torch.ones(1), torch.ones(1))
    tensor([2.])
    """
    if weight.dtype.itemsize > 1:
        return weight + update.to(weight.dtype)
    limits = torch.finfo(weight.dtype)
    return (weight.to(update.dtype) + update).clamp(limits.min, limits.max).to(weight.dtype)


def add_delta_weight_(
    weight: Float[Tensor, "out in"],
    U: Float[Tensor, "out r"],
    folded: Float[Tensor, "r r"],
    V: Float[Tensor, "in r"],
    sign: int = 1,
) -> Float[Tensor, "out in"]:
    """Add `sign U folded V^T` to `weight` in place, without forming the dense update; all in one dtype.

    >>> add_delta_weight_(torch.zeros(2, 2), torch.eye(2), 3 * torch.eye(2), torch.eye(2), sign=-1)
    tensor([[-3.,  0.],
            [ 0., -3.]])
    """
    return weight.addmm_(U @ folded, V.mT, alpha=sign)


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Turn autocast off for the device of `like`, if it is on."""
    return nullcontext() if autocast_dtype(like) is None else torch.autocast(like.device.type, enabled=False)


def autocast_dtype(like: Tensor) -> torch.dtype | None:
    """Return what autocast computes in on the device of `like`; None if it is off, or unknown to the device (meta)."""
    device = like.device.type
    # By name, since `torch.amp.is_autocast_available` breaks the graph of torch.compile before torch 2.10.
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None
