"""The library's step rule with other guards, to be measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from deep_lora import StepRule
from deep_lora.optimizer.families import Lengths, Stacks
from deep_lora.optimizer.lengths import FIRST_STEPS, MEMORY, TINY


@dataclass(frozen=True)
class PathRule:
    """`|E_t|_F = path |W|_F f_t / (f_1 + ... + f_T) g_t`, with f the schedule of the run and g a guard.

    The guard is `g_t = min(1, s_t / s_1)^power`, where s is the slope: by how much a step lowers the loss, to first
    order, for each share of the weights' norms that it moves them, averaged over modules and recent steps. It falls to
    nothing where the training data have been learned by heart.

    Attributes:
        path: how far a weight may go in the whole run, as a share of its own norm.
        power: of the guard; 0 is no guard.
        reference: the slope that the guard compares with: the largest of the "first" three steps, the largest mean
            of "all" so far, the root mean square ("rms") of all so far, as Adam has it for every entry, or their
            "mean".
        direction: of the slope: that of the optimizer's "step", which agrees with the gradient most at first, or the
            "gradient" itself, whose norm falls with the residuals alone.
    """

    path: float
    power: float = 0.0
    reference: str = "first"
    direction: str = "step"


class SlopeGuard:
    """`min(1, s_t / s_1)^power` of a running mean of slopes; s_1 is the reference of a `PathRule`.

    >>> guard = SlopeGuard(power=2.0, memory=0.5)
    >>> [guard(slope) for slope in (4.0, 4.0, 4.0, 0.0, 0.0)]
    [1.0, 1.0, 1.0, 0.25, 0.0625]
    """

    def __init__(self, power: float, memory: float = MEMORY, reference: str = "first") -> None:
        self.power, self.memory, self.reference = power, memory, reference
        self.slope = self.first = 0.0
        self.steps, self.sum, self.squares = 0, 0.0, 0.0

    def __call__(self, slope: float) -> float:
        self.slope = slope if self.steps == 0 else self.memory * self.slope + (1 - self.memory) * slope
        if self.steps < FIRST_STEPS:
            self.first = max(self.first, slope)
        elif self.reference == "all":
            self.first = max(self.first, self.slope)
        self.steps += 1
        self.sum += slope
        self.squares += slope**2
        if self.reference == "rms":
            self.first = (self.squares / self.steps) ** 0.5
        elif self.reference == "mean":
            self.first = self.sum / self.steps
        return min(1.0, self.slope / max(self.first, TINY)) ** self.power


class RuledSteps(StepRule):
    """The library's rule with a guard of the study.

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
        self.direction, self.studied = rule.direction, SlopeGuard(rule.power, reference=rule.reference)
        self.slopes, self.guards = list[float](), list[float]()

    def _listen(
        self, before: list[tuple[Stacks, Stacks]], steps: list[Stacks], lengths: list[Lengths]
    ) -> Float[Tensor, ""]:
        slopes = []
        for family, (values, gradients), step, length in zip(self._families, before, steps, lengths, strict=True):
            if self.direction == "gradient":
                gain, moved = family.dot(gradients, gradients), Lengths(family, values, gradients).per_share
            else:
                gain, moved = -family.dot(gradients, step), length.of(torch.ones_like(family.norms))
            slopes.append((gain * family.norms / moved.clamp(min=TINY)).clamp(min=0))
        self.slopes.append(torch.cat(slopes).mean().item())
        self.guards.append(self.studied(self.slopes[-1]))
        return torch.tensor(self.guards[-1])
