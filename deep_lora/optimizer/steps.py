"""Steps of an optimizer that are limited relative to what they change, so that no rate is too high."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from deep_lora.sharded import gathered

CORES_GROUP, SUBSPACES_GROUP = "deep_lora_core", "deep_lora_subspaces"  # names of the optimizer groups that are limited
RATE = "unscheduled_lr"  # of such a group when the limit was set


class RelativeStepLimit:
    """Hooks of an optimizer: no step of a tensor in Deep LoRA's groups is longer than a share of the tensor's norm.

    A step `d` from `p` becomes `min(1, c f norm(p) / norm(d)) d`, with c the limit and f <= 1 what a scheduler, of
    whatever kind, has left of the group's rate: `lr` over the largest of the rate at which this was made, the
    scheduler's `initial_lr` and its `max_lr`. A rate that is high enough for every step to be limited has no influence
    any more; a low one is obeyed as it is. Works with any optimizer that keeps no second copy of the weights and whose
    steps run its hooks (a copy made by `copy.deepcopy` has none), under DDP and FSDP 2, but not under DeepSpeed ZeRO or
    FSDP 1, whose optimizers see flattened pieces of the tensors.

    Source: ours; trust ratios (You et al., LAMB, 2020) rescale every step, this shortens only long ones.

    >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = torch.optim.SGD([{"params": [p], "name": "deep_lora_core"}], lr=100.0)
    >>> limit = RelativeStepLimit(optimizer, 0.1)
    >>> p.grad = torch.tensor([1.0, 0.0])
    >>> optimizer.step()
    >>> p.detach()
    tensor([2.5000, 4.0000])
    """

    def __init__(self, optimizer: Optimizer, limit: float) -> None:
        if not limit > 0:
            raise ValueError(f"the limit of relative steps must be positive, got {limit}")
        if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
            raise ValueError(
                f"{type(optimizer).__name__} holds a second copy of the weights, whose steps cannot be limited; "
                "take an optimizer that is not schedule-free, or leave the limit out"
            )
        self.limit = limit
        self._before: list[tuple[list[Tensor], list[Tensor], float]] = []
        for group in _limited_groups(optimizer):
            group[RATE] = float(group["lr"])  # in the group, so that it is saved and loaded with the optimizer
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._shorten)

    @torch.no_grad()
    def _remember(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._before = []
        for group in _limited_groups(optimizer):
            left = _share_left(group)
            by_device: defaultdict[torch.device, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.requires_grad:  # its gradient may come of a closure, in the step
                    by_device[parameter.device].append(parameter)
            for parameters in by_device.values():
                self._before.append((parameters, [p.detach().clone() for p in parameters], self.limit * left))

    @torch.no_grad()
    def _shorten(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before, self._before = self._before, []
        for parameters, old, limit in before:
            steps = list(torch._foreach_sub(parameters, old))
            lengths, allowed = _norms(steps), limit * _norms(old)
            # what is cut off: nothing of a step of no length, and of one that is not finite, which is left to show
            cut = torch.where(lengths > allowed, 1 - allowed / lengths, 0.0)
            torch._foreach_mul_(steps, [share.to(step.dtype) for share, step in zip(cut, steps, strict=True)])
            torch._foreach_sub_(parameters, steps)


def _limited_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group.get("name") in (CORES_GROUP, SUBSPACES_GROUP)]


def _share_left(group: dict[str, Any]) -> float:
    """Return the share of the group's highest rate; schedulers that start low, as OneCycleLR, call that `initial_lr`.

    >>> _share_left({"lr": 0.5, "initial_lr": 1.0}), _share_left({"lr": 0.5, "initial_lr": 0.1, "max_lr": 2.0})
    (0.5, 0.25)
    """
    rate = float(group["lr"])
    highest = max(float(group.get(name, 0.0)) for name in (RATE, "initial_lr", "max_lr"))
    return min(1.0, rate / highest) if highest > 0 else 1.0


def _norms(tensors: list[Tensor]) -> Float[Tensor, " count"]:
    """Return Euclidean norms; of tensors that FSDP has sharded over processes, those of the whole."""
    norms = torch.stack(list(torch._foreach_norm(tensors)))
    return gathered(norms)
