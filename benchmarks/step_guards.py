"""The library's step rule with other guards, to be measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from deep_lora import StepRule
from deep_lora.optimizer.families import Lengths, Stacks
from deep_lora.optimizer.lengths import FIRST_STEPS, TINY, Pace, largest_of_first, mean_of_all, root_mean_square


def largest_mean(reference: Tensor, slope: Tensor, mean: Tensor, steps: Tensor) -> Tensor:
    """Return the largest of the first three slopes and of all running means since; arguments as `largest_of_first`.

    >>> largest_mean(*torch.tensor([2.0, 9.0, 3.0, 5.0]))
    tensor(3.)
    """
    return torch.maximum(reference, torch.where(steps < FIRST_STEPS, slope, mean))


REFERENCES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "first": largest_of_first,
    "all": largest_mean,
    "rms": root_mean_square,
    "mean": mean_of_all,
}


@dataclass(frozen=True)
class PathRule:
    """A `Pace` as settings have it, and what the guard listens to.

    Attributes:
        path: how far a weight may go in the whole run, as a share of its own norm.
        power: of the guard; 0 is no guard.
        reference: the slope that the guard compares with, one of `REFERENCES`.
        direction: of the slope: that of the optimizer's "step", which agrees with the gradient most at first, the
            "gradient" itself, whose norm falls with the residuals alone, or "library", the step to first order.
    """

    path: float
    power: float = 0.0
    reference: str = "first"
    direction: str = "step"


class RuledSteps(StepRule):
    """The library's rule with a guard of the study. Slopes are taken at the length of the optimizer's own step.

    Args:
        optimizer, model, num_steps, scheduler: see `StepRule`.
        rule: see `PathRule`.

    Attributes:
        slopes, guards: of every step so far.
    """

    def __init__(
        self, optimizer: Optimizer, model: nn.Module, num_steps: int, rule: PathRule, scheduler: Any = None
    ) -> None:
        super().__init__(optimizer, model, num_steps, path=rule.path, scheduler=scheduler)
        self.pace, self.direction = Pace(rule.path, rule.power, REFERENCES[rule.reference]), rule.direction
        self.slopes, self.guards = list[float](), list[float]()

    def _listen(
        self, before: list[tuple[Stacks, Stacks]], steps: list[Stacks], lengths: list[Lengths]
    ) -> Float[Tensor, ""]:
        left = super()._listen(before, steps, lengths)
        self.guards.append(left.item())
        return left

    def _slope(
        self, before: list[tuple[Stacks, Stacks]], steps: list[Stacks], lengths: list[Lengths]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        if self.direction == "library":
            slope, count = super()._slope(before, steps, lengths)
            self.slopes.append(slope.item())
            return slope, count
        slopes = []
        for family, (values, gradients), step, length in zip(self._families, before, steps, lengths, strict=True):
            if self.direction == "gradient":
                gain, moved = family.dot(gradients, gradients), Lengths(family, values, gradients).per_share
            else:
                gain, moved = -family.dot(gradients, step), length.of(torch.ones_like(family.norms))
            slopes.append((gain * family.norms / moved.clamp(min=TINY)).clamp(min=0))
        slope = torch.cat(slopes).mean()
        self.slopes.append(slope.item())
        return slope, torch.ones_like(slope)
