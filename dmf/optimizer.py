"""Parameter groups with the discrepant learning rates of cores and outer factors."""

from __future__ import annotations

from typing import Any

from torch import nn

from dmf.compressed import CompressedDMF


def parameter_groups(model: nn.Module, lr: float, gamma: float = 0.01) -> list[dict[str, Any]]:
    """Make optimizer groups: cores at `lr`, outer factors at `gamma * lr`, everything else trainable at `lr`.

    Every `CompressedDMF` inside the model is found; a wide factorization has one learning rate. gamma multiplies the
    learning rate, so it acts the same way under gradient descent, momentum and Adam.

    Args:
        model: a factorization, or a module that holds some.
        lr: learning rate of the cores (of all factors of a wide factorization), positive.
        gamma: learning rate of `left` and `right` relative to `lr`. 0 freezes them (sets `requires_grad` to False), a
            positive value trains them (sets it to True).

    Returns:
        Groups named "core", "outer" and "other", without the empty ones.

    Raises:
        ValueError: if a number is out of range or no parameter is trainable.

    Source: the discrepant learning rates of Yaras et al., ICML 2024 (gamma = 0.01).

    >>> groups = parameter_groups(CompressedDMF(4, 3, rank=2), lr=10.0)
    >>> [(group["name"], group["lr"]) for group in groups]
    [('core', 10.0), ('outer', 0.1)]
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if not gamma >= 0:
        raise ValueError(f"gamma must be 0 (which freezes the outer factors) or positive, got {gamma}")
    compressed = [module for module in model.modules() if isinstance(module, CompressedDMF)]
    outer = [factor for module in compressed for factor in (module.left, module.right)]
    for factor in outer:
        factor.requires_grad_(gamma > 0)
    cores = [module.core for module in compressed if module.core.requires_grad]
    placed = {id(parameter) for parameter in [*outer, *cores]}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in placed]
    groups: list[dict[str, Any]] = [
        {"name": "core", "params": cores, "lr": lr},
        {"name": "outer", "params": outer if gamma > 0 else [], "lr": gamma * lr},
        {"name": "other", "params": others, "lr": lr},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("the model has no trainable parameter; check `requires_grad`, and that the model is not empty")
    return groups
