"""How long a step of factors is on the weight, and how long it should be: pure functions of small tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Chosen by the search in docs/few_shot.md.
MEMORY = 0.8  # weight of the past in the running mean of the slope
FIRST_STEPS = 3  # whose slopes `largest_of_first` compares
CAP = 0.15  # no factor moves further in a step than this share of its norm
TINY = 1e-30
ITERATIONS = 2


def middles(
    core: Float[Tensor, "modules n r r"],
    step: Float[Tensor, "modules n r r"],
    scale: Float[Tensor, " modules"],
    core_scale: Float[Tensor, " modules"],
    start: Float[Tensor, " modules"],
    *,
    linear: bool = False,
) -> tuple[Float[Tensor, "modules r r"], Float[Tensor, "modules r r"]]:
    """Return the middle N of an update, and by how much a step of the cores changes it; nothing large cancels.

    `N = scale kappa^n (c_n ... c_1 - start^n I)`; without cores (n = 0, a LoRA) it is `scale I`.

    Args:
        core_scale: kappa.
        linear: the change to first order.

    >>> core = torch.full((1, 2, 1, 1), 3.0)
    >>> one = torch.ones(1)
    >>> N, change = middles(core, core / 3, one, one, one)  # 3 * 3 - 1, and 4 * 4 - 3 * 3
    >>> N.item(), change.item()
    (8.0, 7.0)
    """
    eye = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
    count, kappa, factor_of_all = core.shape[1], core_scale[:, None, None], scale[:, None, None]
    if count == 0:
        return factor_of_all * eye, torch.zeros_like(factor_of_all * eye)
    product, change = kappa * core[:, 0], kappa * step[:, 0]
    for index in range(1, count):  # (c + d)(m + e) - c m = (c + d) e + d m
        factor = core[:, index] if linear else core[:, index] + step[:, index]
        change = kappa * (factor @ change + step[:, index] @ product)
        product = kappa * (core[:, index] @ product)
    first = ((core_scale * start) ** count)[:, None, None]
    return factor_of_all * (product - first * eye), factor_of_all * change


def product_norm(
    left: Float[Tensor, "modules 2r 2r"],
    right: Float[Tensor, "modules 2r 2r"],
    change: Float[Tensor, "modules r r"],
    cross: Float[Tensor, "modules r r"],
    square: Float[Tensor, "modules r r"],
) -> Float[Tensor, " modules"]:
    """Return `|[X, dX] L [Y, dY]^T|_F` with `L = [[change, cross], [cross, square]]`, from Gram matrices alone.

    A step of the factors moves `X N Y^T` by just this, with `change = N' - N`, `cross = N'` and `square = N'`, where N'
    is the middle after the step; to first order, with `cross = N` and `square = 0`.

    Args:
        left, right: Gram matrices G of `[X, dX]` and `[Y, dY]`; the squared norm is `<G_X L G_Y, L>`.

    >>> X, Y, one = torch.ones(1, 3, 1), torch.ones(1, 4, 1), torch.ones(1, 1, 1)
    >>> left, right = (torch.cat([F, F], -1).mT @ torch.cat([F, F], -1) for F in (X, Y))
    >>> product_norm(left, right, 0 * one, one, one)  # both factors doubled: three times sqrt(12)
    tensor([10.3923])
    """
    L = torch.cat([torch.cat([change, cross], -1), torch.cat([cross, square], -1)], -2)
    return ((left @ L @ right) * L).sum((-2, -1)).clamp(min=0).sqrt()


def largest_of_first(
    reference: Float[Tensor, ""], slope: Float[Tensor, ""], mean: Float[Tensor, ""], steps: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Return the largest of the first three slopes so far.

    Args:
        reference, steps: the reference until now, and of how many slopes.
        slope, mean: the new slope, and the running mean with it.

    >>> largest_of_first(*torch.tensor([4.0, 6.0, 5.0, 2.0])), largest_of_first(*torch.tensor([4.0, 6.0, 5.0, 3.0]))
    (tensor(6.), tensor(4.))
    """
    return torch.where(steps < FIRST_STEPS, torch.maximum(reference, slope), reference)


def mean_of_all(
    reference: Float[Tensor, ""], slope: Float[Tensor, ""], mean: Float[Tensor, ""], steps: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Return the mean of all slopes so far; the arguments are those of `largest_of_first`.

    >>> mean_of_all(*torch.tensor([4.0, 1.0, 3.0, 2.0]))
    tensor(3.)
    """
    return reference + (slope - reference) / (steps + 1)


def root_mean_square(
    reference: Float[Tensor, ""], slope: Float[Tensor, ""], mean: Float[Tensor, ""], steps: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Return the root mean square of all slopes so far; the arguments are those of `largest_of_first`.

    >>> root_mean_square(*torch.tensor([1.0, 7.0, 4.0, 1.0]))
    tensor(5.)
    """
    return ((steps * reference.square() + slope.square()) / (steps + 1)).sqrt()


@dataclass(frozen=True)
class Pace:
    """How far a run goes, and what makes its steps short.

    Attributes:
        path: of the whole run, in units of the norm of the weight that is adapted.
        power: of the guard.
        reference: the slope that the guard compares with.
    """

    path: float
    power: float
    reference: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def listened(
    state: Float[Tensor, " 3"], slope: Float[Tensor, ""], heard: Float[Tensor, ""], pace: Pace
) -> Float[Tensor, " 3"]:
    """Return the guard's state after a step: running mean of the slope, its reference, and steps so far.

    The slope is by how much a step lowers the loss, to first order, for each share of its norm that it moves a weight.

    Args:
        heard: 0 where the step had no length, which says nothing; the state then stays.

    >>> state, pace = torch.zeros(3), Pace(0.24, 3.0, mean_of_all)
    >>> for slope in (4.0, 2.0, 0.0):
    ...     state = listened(state, torch.tensor(slope), torch.tensor(1.0), pace)
    >>> state
    tensor([2.8800, 2.0000, 3.0000])
    """
    mean, reference, steps = state.unbind()
    mean = torch.where(steps == 0, slope, MEMORY * mean + (1 - MEMORY) * slope)
    reference = pace.reference(reference, slope, mean, steps)
    return torch.where(heard > 0, torch.stack([mean, reference, steps + 1]), state)


def guard(state: Float[Tensor, " 3"], pace: Pace) -> Float[Tensor, ""]:
    """Return the share of a step's length that is left where the slope has flattened: `min(1, mean / reference)^p`.

    It goes to zero where the training data have been learned by heart, and stays where there is something to learn.

    Source: ours (docs/few_shot.md).

    >>> pace = Pace(0.24, 3.0, mean_of_all)
    >>> guard(torch.tensor([1.0, 2.0, 10.0]), pace)
    tensor(0.1250)
    >>> guard(torch.tensor([3.0, 2.0, 10.0]), pace), guard(torch.zeros(3), pace)
    (tensor(1.), tensor(1.))
    """
    mean, reference, _ = state.unbind()
    return torch.where(reference > 0, mean / reference.clamp(min=TINY), 1.0).clamp(0.0, 1.0) ** pace.power
