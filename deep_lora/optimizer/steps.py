"""`StepRule`: the optimizer steps of an adapter get the lengths that a path for the whole run asks for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from deep_lora.layers.first_backward import told
from deep_lora.optimizer.factored import Factored, factored_weights
from deep_lora.optimizer.families import Lengths, Stacks, families
from deep_lora.optimizer.lengths import TINY, guard, listened
from deep_lora.optimizer.paces import SIMILARITIES, pace_of
from deep_lora.optimizer.schedules import RATE, schedule_sum, share_left

# Entries of the adapter's optimizer group, so that they are saved and loaded with the optimizer.
STATE, STEPS, GONE, SUM, TOTAL = (f"step_rule_{name}" for name in ("state", "steps", "gone", "sum", "total"))
FEW_STEPS = 10


class StepRule:
    """Hooks of an optimizer: every step of an adapter has the length, on the weight, that the rule asks for.

    However an optimizer moves the factors of an update dW, the direction stays and the length becomes

        |dW_{t+1} - dW_t|_F = b |W|_F  f_t / (f_1 + ... + f_T)  g_t

    with b the path that a weight may go in the whole run, W the weight that is adapted, f_t what the scheduler leaves
    of the rate, T the number of steps, and g_t <= 1 a guard (`deep_lora.optimizer.lengths.guard`): steps become short
    where the loss falls less than it did, so that little is learned by heart. Models that maximize a likelihood, of
    tokens or of classes, have a shorter path and another guard: such a loss keeps falling through confidence alone when
    all examples are learned, which that of scores and similarities does not. Where a matrix is trained beside the
    adapter, as a new head is, the guard is milder, for the adapter has to learn what the head can read, and the first
    steps, which fit the head's offset, are no measure for the others.

    So the learning rate of the adapter has no influence, `|dW|_F <= b |W|_F` always, and runs of any number of steps,
    ranks and depths go equally far. No factor moves further in one step than 0.15 of its own norm. Parameters beside
    the adapter keep the optimizer's own steps. Extra memory: a copy of the adapter, and of its gradient in a step.

    Works with any optimizer that keeps no second copy of the weights and whose steps run its hooks, with a closure or
    without, for Deep LoRA and for PEFT's LoRA, under DDP and FSDP 2; optimizers under DeepSpeed ZeRO or FSDP 1 see
    flattened pieces and are refused.

    Source: ours (docs/few_shot.md); trust ratios (You et al., LAMB, 2020) measure parameters, this measures products.

    Args:
        optimizer: trains the adapter; saved and loaded as usual; the rule's state is in its `state_dict`.
        model: holds the adapter.
        num_steps: T, optimizer steps of the whole run.
        path: b; None for 0.12 where the loss is a likelihood, and for 0.24 elsewhere.
        max_grad_norm: gradients of all parameters are clipped to this norm after the guard has seen them; None clips
            nothing. Gradients that were clipped before tell the guard less.
        likelihood: whether the loss is a cross-entropy, of tokens or of classes; None asks the model
            (`deep_lora.optimizer.paces`). Pass True for a head of your own with such a loss.
        scheduler: of the rate, for f_1 + ... + f_T. If None, the sum is taken as that of a rate that falls to zero,
            linearly or as a cosine, where the optimizer has a scheduler, and of a constant rate where it has none.
        resume: continue from the state that the optimizer has loaded, or from this one, of `saved()`; otherwise the
            run starts over.

    Raises:
        ValueError: for bad numbers, a model without a trained adapter, an optimizer that does not hold it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        num_steps: int,
        *,
        path: float | None = None,
        likelihood: bool | None = None,
        max_grad_norm: float | None = None,
        scheduler: Any = None,
        resume: bool | Mapping[str, Any] = False,
    ) -> None:
        self.pace = pace_of(model, optimizer, likelihood)
        path = self.pace.path if path is None else path
        _check_numbers(num_steps, path)
        _check_single_copy(optimizer)
        self.optimizer, self.num_steps, self.path, self.max_grad_norm = optimizer, num_steps, path, max_grad_norm
        self._model = model
        self._before: list[tuple[Stacks, Stacks]] = []
        self._values: list[Stacks] = []
        self._find_parameters()
        group = self.group
        if isinstance(resume, Mapping):
            group.update(dict(resume) | {STATE: torch.tensor(resume[STATE])})
        if resume and STATE not in group:
            warnings.warn(
                "the optimizer has loaded no state of the step rule, so the adapter's path starts over; resume from a "
                "checkpoint that was written under the rule, or begin a new run",
                stacklevel=3,
            )
        if not resume or STATE not in group:
            rate = float(group["lr"] or 0.0)
            group.update({STATE: torch.zeros(3), STEPS: 0, GONE: 0.0, SUM: 0.0, TOTAL: num_steps, RATE: rate})
        if scheduler is not None and not (group[SUM] and group[TOTAL] == num_steps):
            group[SUM] = group[GONE] + schedule_sum(scheduler, max(0, num_steps - group[STEPS]), self._index)
            group[TOTAL] = num_steps
        self._handles = [
            optimizer.register_step_pre_hook(self._remember), optimizer.register_step_post_hook(self._set_lengths)
        ]  # fmt: skip
        if num_steps < FEW_STEPS:
            warnings.warn(
                f"the run makes {num_steps} optimizer steps, which may be too few to learn from; use more epochs or "
                "smaller batches",
                stacklevel=3,
            )

    @property
    def group(self) -> dict[str, Any]:
        """The optimizer's group that holds the adapter, and the rule's state."""
        return self.optimizer.param_groups[self._index]

    @property
    def guard(self) -> float:
        """The share of a step's length that the guard leaves by now."""
        return float(guard(self.group[STATE], self.pace))

    def saved(self) -> dict[str, Any]:
        """Return the rule's state as plain numbers, for where an optimizer's own does not reach every process."""
        group = self.group
        return {name: group[name] for name in (STEPS, GONE, SUM, TOTAL, RATE)} | {STATE: group[STATE].tolist()}

    def remove(self) -> None:
        """Remove the hooks; the optimizer's steps are its own again."""
        for handle in self._handles:
            handle.remove()

    def _find_parameters(self) -> None:
        weights = factored_weights(self._model)
        self._index = _group_index(self.optimizer, weights)
        self._families = families(weights)
        self._held = _held(self.optimizer)

    @torch.no_grad()
    def _remember(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _held(optimizer) != self._held:  # accelerate puts others in their place under FSDP 2
            self._find_parameters()
        self._before, self._values = [], [family.values() for family in self._families]
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0] is the optimizer
        if closure is None:
            self._hear(optimizer)
            return None

        def heard() -> Any:  # it makes the gradients, within the step
            loss = closure()
            self._hear(optimizer)
            return loss

        return ((args[0], heard, *args[2:]), kwargs) if len(args) > 1 else (args, kwargs | {"closure": heard})

    @torch.no_grad()
    def _hear(self, optimizer: Optimizer) -> None:
        """Keep the gradients with which a step begins, and clip those of every call of a closure."""
        if not self._before:
            gradients = [family.gradients() for family in self._families]
            self._before = list(zip(self._values, gradients, strict=True))
            if self.group[STEPS] == 0:
                self._warn_without_gradient()
        if self.max_grad_norm:
            everything = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(everything, self.max_grad_norm)

    @torch.no_grad()
    def _set_lengths(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before, self._before = self._before, []
        steps = [
            [new - old for new, old in zip(family.values(), values, strict=True)]
            for family, (values, _) in zip(self._families, before, strict=True)
        ]
        lengths = [
            Lengths(family, values, step)
            for family, (values, _), step in zip(self._families, before, steps, strict=True)
        ]
        left = self._listen(before, steps, lengths)
        share = self._next_share()
        for family, (values, _), step, length in zip(self._families, before, steps, lengths, strict=True):
            family.write_(values, length.share(share * left.to(family.device) * family.norms), step)

    def _listen(
        self, before: list[tuple[Stacks, Stacks]], steps: list[Stacks], lengths: list[Lengths]
    ) -> Float[Tensor, ""]:
        """Let the guard hear the slope of this step, and return what it leaves."""
        slope, count = self._slope(before, steps, lengths)
        group = self.group
        group[STATE] = listened(group[STATE].to(slope), slope, count, self.pace)
        return guard(group[STATE], self.pace)

    def _slope(
        self, before: list[tuple[Stacks, Stacks]], steps: list[Stacks], lengths: list[Lengths]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the mean slope of this step over all updates that it moves, and how many these are."""
        slopes, heard = [], []
        device, sign = self._families[0].device, 1 if self.group.get("maximize") else -1
        for family, (_, gradients), step, length in zip(self._families, before, steps, lengths, strict=True):
            gain = sign * family.dot(gradients, step) * family.norms
            slopes.append((gain / length.per_share.clamp(min=TINY)).clamp(min=0).sum().to(device))
            heard.append((length.per_share > 0).sum().to(device))
        count = torch.stack(heard).sum()
        return torch.stack(slopes).sum() / count.clamp(min=1), count

    def _next_share(self) -> float:
        """Count a step; return its part of the path."""
        group = self.group
        left = share_left(group)
        if not group[SUM]:
            group[SUM] = (self.num_steps + 1) / 2 if "initial_lr" in group else float(self.num_steps)
        group[STEPS] += 1
        group[GONE] += left
        if group[STEPS] == self.num_steps + 1:
            warnings.warn(
                f"the optimizer makes more steps than the {self.num_steps} that the step rule was given; pass the true "
                "number, or the adapter moves further than it should",
                stacklevel=6,
            )
        return self.path * left / group[SUM]

    def _warn_without_gradient(self) -> None:
        parameters = [p for family in self._families for weight in family.weights for p in weight.parameters()]
        idle = sum(p.grad is None for p in parameters)
        if idle and not told(self._model):
            warnings.warn(
                f"no gradient reached {idle} of {len(parameters)} tensors of the adapter in the first step: the model "
                "does not call their layers, or the loss does not depend on them; leave such layers out with "
                "`exclude_modules`",
                stacklevel=6,
            )


def no_adapter() -> str:
    """Return what to say of a model without a trained adapter.

    >>> no_adapter().split(";")[0]
    'the model has no trained adapter of Deep LoRA or LoRA'
    """
    return (
        "the model has no trained adapter of Deep LoRA or LoRA; make one with `get_peft_model(model, "
        "DeepLoraConfig(...))` and check that it is active and not in inference mode"
    )


def _check_numbers(num_steps: int, path: float) -> None:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(
            f"`num_steps` must be the number of optimizer steps of the whole run, at least 1, got {num_steps!r}"
        )
    if not 0 < path < float("inf"):
        raise ValueError(
            f"`path` must be positive, a share of the weights' norms such as {SIMILARITIES.path}, got {path!r}"
        )


def _check_single_copy(optimizer: Optimizer) -> None:
    if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
        raise ValueError(
            f"{type(optimizer).__name__} keeps a second copy of the weights, whose steps cannot be set; use an "
            "optimizer that is not schedule-free, such as AdamW"
        )


def _held(optimizer: Optimizer) -> list[int]:
    return [id(p) for group in optimizer.param_groups for p in group["params"]]


def _group_index(optimizer: Optimizer, weights: list[Factored]) -> int:
    """Return the number of the group with the adapter's first parameter; all of them have to be in the optimizer."""
    if not weights:
        raise ValueError(no_adapter())
    groups = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
    parameters = [p for weight in weights for p in weight.parameters()]
    missing = sum(id(p) not in groups for p in parameters)
    if missing:
        raise ValueError(
            f"{missing} of {len(parameters)} tensors of the adapter are not in the optimizer, as under DeepSpeed and "
            "FSDP 1, whose optimizers hold flattened pieces of them; use DDP or FSDP 2, make the optimizer after the "
            "adapter, or train without the step rule"
        )
    return groups[id(parameters[0])]
