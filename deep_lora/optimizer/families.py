"""Updates whose factors have one rank: their steps are measured and scaled all at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from deep_lora.optimizer.factored import Factor, Factored
from deep_lora.optimizer.lengths import CAP, ITERATIONS, TINY, middles, product_norm

LARGEST_SHARE = 1e12
Stacks = list[Tensor]  # of the outer factors by their number of features, (factors, features, r); of the cores last


class Family:
    """Updates on one device with one rank and one number of cores.

    All X and Y with the same number of features lie in one stack, so that a step costs a few operations in all.
    """

    def __init__(self, weights: Sequence[Factored]) -> None:
        self.weights = list(weights)
        outer = [weight.left for weight in weights] + [weight.right for weight in weights]
        by_features: defaultdict[int, list[int]] = defaultdict(list)
        for index, factor in enumerate(outer):
            by_features[factor.value().shape[0]].append(index)
        order = [index for indices in by_features.values() for index in indices]
        self.outer = [[outer[index] for index in indices] for indices in by_features.values()]
        self.cores = [weight.cores for weight in weights if weight.cores is not None]
        some = outer[0].value()
        self.device, self.rank = some.device, some.shape[1]
        # Where each update's X and Y lie among the stacked factors, and which update each of those belongs to.
        places = torch.tensor(order).argsort().to(self.device)
        self.left, self.right = places.split(len(weights))
        self.owner = torch.tensor([index % len(weights) for index in order]).to(self.device)
        numbers = torch.tensor([(w.scale, w.core_scale, w.start, w.left_out, w.norm) for w in weights])
        self.scale, self.core_scale, self.start, self.left_out, self.norms = numbers.to(self.device).unbind(1)
        self.capped = torch.tensor([weight.capped for weight in weights], device=self.device)

    def values(self) -> Stacks:
        """Return copies of the factors, in float32 at least."""
        return self._stacked(Factor.value)

    def gradients(self) -> Stacks:
        """Return copies of their gradients."""
        return self._stacked(Factor.gradient)

    def _stacked(self, read: Callable[[Factor], Tensor]) -> Stacks:
        stacks = [torch.stack([read(factor) for factor in factors]) for factors in self.outer]
        if self.cores:
            stacks.append(torch.stack([read(factor) for factor in self.cores]))
        else:
            stacks.append(stacks[0].new_zeros(len(self.weights), 0, self.rank, self.rank))
        return [stack if stack.dtype == torch.float64 else stack.float() for stack in stacks]

    def dot(self, first: Stacks, second: Stacks) -> Float[Tensor, " weights"]:
        """Return the inner product of two sets of factors for each update."""
        outer = torch.cat([(a * b).sum((-2, -1)) for a, b in zip(first[:-1], second[:-1], strict=True)])
        return outer[self.left] + outer[self.right] + (first[-1] * second[-1]).sum((-3, -2, -1))

    def write_(self, values: Stacks, shares: Float[Tensor, " weights"], steps: Stacks) -> None:
        """Set the factors to `values + share steps`."""
        factors = [factor for stack in self.outer for factor in stack] + self.cores
        by_outer = shares[self.owner].split([len(stack) for stack in self.outer])
        scales = [*(share[:, None, None] for share in by_outer), shares[:, None, None, None]]
        moved = [torch.addcmul(old, share, step) for old, share, step in zip(values, scales, steps, strict=True)]
        new = [tensor for stack in moved for tensor in stack.unbind()][: len(factors)]  # without cores none of them
        plain = [not hasattr(factor.parameter, "full_tensor") for factor in factors]
        if all(plain):
            torch._foreach_copy_([factor.value() for factor in factors], new)
            return
        for factor, value in zip(factors, new, strict=True):
            factor.write_(value)


class Lengths:
    """How long a step of a family is on the weights, for any share of it.

    Args:
        family: whose step it is.
        values, steps: the factors before it, and by how much it moves them.

    Attributes:
        per_share: the length for each share of the step, to first order.
    """

    def __init__(self, family: Family, values: Stacks, steps: Stacks) -> None:
        self.family, self.step = family, steps[-1]
        eye = torch.eye(family.rank, dtype=self.step.dtype, device=self.step.device)
        self.core = values[-1] + family.left_out[:, None, None, None] * eye
        both = [torch.cat([value, step], -1) for value, step in zip(values[:-1], steps[:-1], strict=True)]
        grams = torch.cat([pair.mT @ pair for pair in both])
        self.left, self.right = grams[family.left], grams[family.right]
        N, change = self._middles(self.step, linear=True)
        self.middle, self.per_share = N, product_norm(self.left, self.right, change, N, torch.zeros_like(N))

    def of(self, shares: Float[Tensor, " weights"]) -> Float[Tensor, " weights"]:
        """Return the length of that share of the step, exactly."""
        share = shares[:, None, None]
        step = share[..., None] * self.step
        _, change = self._middles(step)
        after = self.middle + change
        return product_norm(self.left, self.right, change, share * after, share * share * after)

    def _middles(self, step: Tensor, *, linear: bool = False) -> tuple[Tensor, Tensor]:
        family = self.family
        return middles(self.core, step, family.scale, family.core_scale, family.start, linear=linear)

    def share(self, wanted: Float[Tensor, " weights"]) -> Float[Tensor, " weights"]:
        """Return which share of the step has the length that is wanted, or what the cap leaves of it."""
        most = (CAP * self._relative()).clamp(max=LARGEST_SHARE)  # a step of no length has no share of a length
        share = torch.minimum(wanted / self.per_share.clamp(min=TINY), most)
        for _ in range(ITERATIONS):
            share = torch.minimum(share * wanted / self.of(share).clamp(min=TINY), most)
        return share

    def _relative(self) -> Float[Tensor, " weights"]:
        """Return the norm of a factor over that of its step, the smallest of an update's factors."""
        rank = self.family.rank
        grams = torch.stack([self.left, self.right], 1).diagonal(dim1=-2, dim2=-1)
        value, step = grams.unflatten(-1, (2, rank)).sum(-1).sqrt().unbind(-1)  # (weights, 2) each
        outer = torch.where(self.family.capped, value / step.clamp(min=TINY), torch.inf)
        ratios = [outer.amin(1)]
        if self.core.shape[1]:
            ratios.append((self.core.norm(dim=(-2, -1)) / self.step.norm(dim=(-2, -1)).clamp(min=TINY)).amin(1))
        return torch.stack(ratios).amin(0)


def families(weights: Sequence[Factored]) -> list[Family]:
    """Group updates by device, dtype, rank and number of cores."""
    groups: defaultdict[tuple[object, ...], list[Factored]] = defaultdict(list)
    for weight in weights:
        cores = 0 if weight.cores is None else weight.cores.value().shape[0]
        value = weight.left.value()
        groups[value.device, value.dtype, value.shape[1], cores, weight.cores is None].append(weight)
    return [Family(members) for members in groups.values()]
