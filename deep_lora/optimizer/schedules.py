"""What a scheduler leaves of a rate, now and over a whole run."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from accelerate.scheduler import AcceleratedScheduler
from accelerate.state import AcceleratorState
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

RATE = "unscheduled_lr"  # of a group when the rule was set


def share_left(group: dict[str, Any]) -> float:
    """Return the share of the group's highest rate; schedulers that start low, as OneCycleLR, call that `max_lr`.

    >>> share_left({"lr": 0.5, "initial_lr": 1.0}), share_left({"lr": 0.5, "initial_lr": 0.1, "max_lr": 2.0})
    (0.5, 0.25)
    """
    if group["lr"] is None:  # an optimizer that chooses its own rate
        return 1.0
    rate = float(group["lr"])
    highest = max(float(group.get(name) or 0.0) for name in (RATE, "initial_lr", "max_lr"))
    return min(1.0, rate / highest) if highest > 0 else 1.0


def schedule_sum(scheduler: Any, num_steps: int, group: int = 0) -> float:
    """Return the sum of `share_left` over the next steps of a run; the scheduler itself stays as it is.

    One that waits for a metric is taken as constant; so is None.

    >>> optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    >>> falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    >>> schedule_sum(falling, 4), schedule_sum(None, 4), optimizer.param_groups[0]["lr"]
    (2.5, 4.0, 0.1)
    """
    inner = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    found = getattr(inner, "optimizer", None)
    if found is None or isinstance(inner, ReduceLROnPlateau):
        return float(num_steps)
    optimizer: Optimizer = getattr(found, "optimizer", found)
    stand_in = SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in optimizer.param_groups], lr=1.0)
    for copied, original in zip(stand_in.param_groups, optimizer.param_groups, strict=True):
        copied.update({name: value for name, value in original.items() if name != "params"})
    rehearsal = copy.deepcopy(inner, {id(found): stand_in, id(optimizer): stand_in})
    at_once, total = _steps_at_once(scheduler), 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the order of steps, which a copy cannot know
        for _ in range(num_steps):
            total += share_left(stand_in.param_groups[group])
            try:
                for _ in range(at_once):
                    rehearsal.step()
            except TypeError:  # it wants a metric
                return float(num_steps)
    return total


def _steps_at_once(scheduler: Any) -> int:
    """Return how many steps a scheduler that accelerate has wrapped makes for one of the optimizer: one a process."""
    wrapped = isinstance(scheduler, AcceleratedScheduler) and scheduler.step_with_optimizer
    return AcceleratorState().num_processes if wrapped and not scheduler.split_batches else 1
