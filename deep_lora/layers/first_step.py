"""A warning at the first step of an optimizer that decays cores which hold their start, as earlier formats have them.

Cores that are stored as differences from it decay to where they started.
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from deep_lora.layers.finding import adapted_layers


def watch_step(model: nn.Module) -> None:
    """Look at the next step of an optimizer that trains cores of the model, once.

    The optimizer is not known before, in any trainer; so torch tells of every step until then, or until the model is
    gone.
    """
    cores = [
        core
        for layer in adapted_layers(model).values()
        for name, core in layer.deep_lora_core.items()
        if name in layer.deep_lora_start and not layer.differences[name] and core.requires_grad
    ]
    if cores:
        _Listener(cores)


def decay_of(optimizer: Any, cores: list[Tensor]) -> float | None:
    """Return the largest weight decay that an optimizer has for these tensors; None if it trains none of them.

    >>> import torch
    >>> core = nn.Parameter(torch.ones(2))
    >>> decay_of(torch.optim.AdamW([core]), [core]), decay_of(torch.optim.SGD([core], 0.1), [torch.ones(2)])
    (0.01, None)
    """
    ours = set(map(id, cores))
    decays = [
        group.get("weight_decay") or 0.0
        for group in optimizer.param_groups
        if any(id(p) in ours for p in group["params"])
    ]
    return max(decays, default=None)


class _Listener:
    """The hook; it holds no tensor. It is taken out after the step: hooks are not to change while they are called."""

    def __init__(self, cores: list[Tensor]) -> None:
        self.cores = [weakref.ref(core) for core in cores]
        self.handle = register_optimizer_step_pre_hook(self._before)

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        cores = [core for reference in self.cores if (core := reference()) is not None]
        decay = decay_of(optimizer, cores)
        if decay is None and cores:
            return
        self.cores = []
        optimizer.register_step_post_hook(self._after)
        if decay:
            warnings.warn(
                f"the optimizer has a weight decay of {decay:g} for the cores, which shrinks them but not the start "
                "that is subtracted, so that a module whose gradient is zero leaves the base model; set "
                "`weight_decay=0`, or make the optimizer with `create_optimizer`",
                stacklevel=4,
            )

    def _after(self, *_: Any) -> None:
        self.handle.remove()
