"""The rule under study: each step of an adapter has the length, on the weight, that a path for the whole run asks for.

Not part of the library: it is here to be measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.optim import Optimizer

from deep_lora import DeepLoraLayer, adapted_layers
from deep_lora.functional import fold_cores

ADAPTER = "default"
TINY = 1e-30
FIRST_STEPS = 3  # whose largest slope the guard compares with
Factors = list[Tensor]  # of modules of one shape, stacked along the first axis


def step_norm(
    P: Float[Tensor, "*batch out r"],
    V: Float[Tensor, "*batch in r"],
    dP: Float[Tensor, "*batch out r"],
    dV: Float[Tensor, "*batch in r"],
) -> Float[Tensor, " *batch"]:
    """Return the Frobenius norm of `E = (P + dP)(V + dV)^T - P V^T = dP (V + dV)^T + P dV^T`, from r x r matrices.

    >>> P, V = torch.ones(3, 1), torch.ones(4, 1)
    >>> step_norm(P, V, P, 0 * V), step_norm(P, V, P, -V / 2)  # twice the product, and the same product
    (tensor(3.4641), tensor(0.))
    """
    V1 = V + dV
    squared = (dP.mT @ dP) * (V1.mT @ V1) + 2 * (P.mT @ dP) * (dV.mT @ V1) + (P.mT @ P) * (dV.mT @ dV)
    return squared.sum((-2, -1)).clamp(min=0).sqrt()


class Stack(Protocol):
    """Modules of one shape: their factors, and how long a step of the factors is on the weight."""

    parameters: list[list[nn.Parameter]]
    norms: Float[Tensor, " modules"]
    capped: tuple[int, ...]  # the factors whose steps are capped

    def length(self, old: Factors, step: Factors, share: Float[Tensor, " modules"]) -> Float[Tensor, " modules"]:
        """Return `|dW(F + share step) - dW(F)|_F` for each module."""


class DeepLoraStack:
    """`dW = U folded V^T`."""

    capped = (0, 1, 2)

    def __init__(self, layers: Sequence[DeepLoraLayer]) -> None:
        update = layers[0].update(ADAPTER)
        self.core_scale, self.start, self.scale = update.core_scale, update.start, update.outer_scale**2
        names = ("deep_lora_U", "deep_lora_core", "deep_lora_V")
        self.parameters = [[getattr(layer, name)[ADAPTER] for name in names] for layer in layers]
        self.norms = torch.stack([layer.get_base_layer().weight.detach().norm() for layer in layers])

    def length(self, old: Factors, step: Factors, share: Float[Tensor, " modules"]) -> Float[Tensor, " modules"]:
        (U, core, V), (dU, dcore, dV) = old, step
        share = share[:, None, None]
        before, after = self._folded(core), self._folded(core + share[..., None] * dcore)
        dP = share * (dU @ after) + U @ (after - before)
        return step_norm(U @ before, V, dP, share * dV)

    def _folded(self, core: Float[Tensor, "modules n r r"]) -> Float[Tensor, "modules r r"]:
        return self.scale * fold_cores(core.transpose(0, 1), self.core_scale, self.start)


class LoraStack:
    """`dW = s B A`; B is zero at first, so a share of its norm says nothing."""

    capped = (1,)

    def __init__(self, layers: Sequence[Any]) -> None:
        self.parameters = [[layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].weight] for layer in layers]
        self.scale = layers[0].scaling[ADAPTER]
        self.norms = torch.stack([layer.get_base_layer().weight.detach().norm() for layer in layers])

    def length(self, old: Factors, step: Factors, share: Float[Tensor, " modules"]) -> Float[Tensor, " modules"]:
        (B, A), (dB, dA) = old, step
        share = share[:, None, None]
        return step_norm(self.scale * B, A.mT, self.scale * share * dB, share * dA.mT)


def stacks_of(model: nn.Module) -> list[Stack]:
    """Group the adapted modules of a model with Deep LoRA or LoRA by the shapes of their factors."""
    found = list(adapted_layers(model).values()) or [m for m in model.modules() if isinstance(m, LoraLinear)]
    make: Any = DeepLoraStack if isinstance(found[0], DeepLoraLayer) else LoraStack
    groups: dict[tuple[torch.Size, ...], list[Any]] = defaultdict(list)
    for layer in found:
        groups[tuple(p.shape for p in make([layer]).parameters[0])].append(layer)
    return [make(layers) for layers in groups.values()]


@dataclass(frozen=True)
class PathRule:
    """`|E_t|_F = path |W|_F f_t / (f_1 + ... + f_T) g_t`, with f the schedule of the run and g a guard.

    The guard is `g_t = min(1, s_t / s_1)^power`, where s is the slope: by how much a step lowers the loss, to first
    order, for each share of the weights' norms that it moves them, averaged over modules and recent steps. It falls to
    nothing where the training data have been learned by heart.

    Attributes:
        path: how far a weight may go in the whole run, as a share of its own norm.
        power: of the guard; 0 is no guard.
        cap: no factor (U, V and each core apart; A of LoRA) moves further in a step than this share of its norm.
        memory: weight of the past in the running mean of the slope.
        reference: the slope that the guard compares with: the largest of the "first" three steps, or the largest mean
            of "all" so far.
    """

    path: float
    power: float = 0.0
    cap: float = 0.15
    memory: float = 0.8
    reference: str = "first"


class SlopeGuard:
    """`min(1, s_t / s_1)^power` of a running mean of slopes; s_1 is the largest of the first three.

    >>> guard = SlopeGuard(power=2.0, memory=0.5)
    >>> [guard(slope) for slope in (4.0, 4.0, 4.0, 0.0, 0.0)]
    [1.0, 1.0, 1.0, 0.25, 0.0625]
    """

    def __init__(self, power: float, memory: float, reference: str = "first") -> None:
        self.power, self.memory, self.reference = power, memory, reference
        self.slope = self.first = 0.0
        self.steps = 0

    def __call__(self, slope: float) -> float:
        self.slope = slope if self.steps == 0 else self.memory * self.slope + (1 - self.memory) * slope
        if self.steps < FIRST_STEPS:
            self.first = max(self.first, slope)
        elif self.reference == "all":
            self.first = max(self.first, self.slope)
        self.steps += 1
        return min(1.0, self.slope / max(self.first, TINY)) ** self.power


class RuledSteps:
    """Hooks of an optimizer that give every step the length that the rule asks for.

    Args:
        optimizer: any that has made its step when its hooks run; the schedule is read off its first group.
        model: holds the adapter.
        rule: see `PathRule`.
        schedule_sum: `f_1 + ... + f_T`.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module, rule: PathRule, schedule_sum: float) -> None:
        self.rule, self.schedule_sum, self.stacks = rule, schedule_sum, stacks_of(model)
        self.guard, self.slopes, self.guards = (
            SlopeGuard(rule.power, rule.memory, rule.reference),
            list[float](),
            list[float](),
        )
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._set_length)

    @torch.no_grad()
    def _remember(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.before = [_stacked(stack.parameters) for stack in self.stacks]
        gradients = [[[p.grad for p in module] for module in stack.parameters] for stack in self.stacks]
        self.gradients = [_stacked(found) for found in gradients]

    @torch.no_grad()
    def _set_length(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        group = optimizer.param_groups[0]
        share = self.rule.path * group["lr"] / group.get("initial_lr", group["lr"]) / self.schedule_sum
        steps = [
            [new - old for new, old in zip(_stacked(stack.parameters), before, strict=True)]
            for stack, before in zip(self.stacks, self.before, strict=True)
        ]
        self.slopes.append(self._slope(steps))
        self.guards.append(self.guard(self.slopes[-1]))
        share *= self.guards[-1]
        for stack, old, step in zip(self.stacks, self.before, steps, strict=True):
            scale = _scale(stack, old, step, share * stack.norms, self.rule.cap)
            for index, module in enumerate(stack.parameters):
                for parameter, start, change in zip(module, old, step, strict=True):
                    parameter.copy_(start[index] + scale[index] * change[index])

    def _slope(self, steps: list[Factors]) -> float:
        """Return by how much the loss falls, to first order, for each share of its norm that a weight moves."""
        slopes = []
        for stack, old, gradients, step in zip(self.stacks, self.before, self.gradients, steps, strict=True):
            length = stack.length(old, step, torch.ones_like(stack.norms)).clamp(min=TINY)
            gain = -sum((g * d).flatten(1).sum(1) for g, d in zip(gradients, step, strict=True))
            slopes.append((gain * stack.norms / length).clamp(min=0))
        return torch.cat(slopes).mean().item()


def _scale(stack: Stack, old: Factors, step: Factors, wanted: Tensor, cap: float) -> Float[Tensor, " modules"]:
    """Find by how much to multiply the steps, by a fixed-point iteration."""
    most = cap * torch.stack([_relative(old[factor], step[factor]) for factor in stack.capped]).amin(0)
    scale = torch.ones_like(wanted)
    for _ in range(3):
        length = stack.length(old, step, scale)
        scale = torch.minimum(scale * wanted / length.clamp(min=TINY), most)
    return scale


def _relative(old: Float[Tensor, modules * shape], step: Float[Tensor, modules * shape]) -> Float[Tensor, " modules"]:
    """Return the norm over that of the step, the smallest over a module's cores."""
    before, change = (tensor.flatten(-2).norm(dim=-1) for tensor in (old, step))
    ratio = before / change.clamp(min=TINY)
    return ratio if ratio.ndim == 1 else ratio.amin(-1)


def _stacked(modules: Any) -> Factors:
    return [torch.stack(list(tensors)).detach().clone() for tensors in zip(*modules, strict=True)]
