"""Small models of every kind under the step rule, and the dense updates that their steps make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from deep_lora import DeepLoraConfig, adapted_layers
from deep_lora.optimizer.steps import StepRule
from tests.models import Mixed, Nest, Pixels, adapt, ids

MOST = 1e-3  # relative error of a length after the iterations
STEPS, PATH = 12, 0.004
SHORT = {"depth 5": 4e-4, "the paper's start": 1e-4, "experts": 1e-3}  # where the cap would bind in the first steps


def mixed(**settings: Any) -> tuple[nn.Module, Tensor]:
    names = ["embedding", "square", "tall", "wide"]
    return adapt(Mixed(), **({"r": 2, "target_modules": names} | settings)), ids()


def lora_mixed() -> tuple[nn.Module, Tensor]:
    return get_peft_model(Mixed(), LoraConfig(r=2, target_modules=["embedding", "square", "tall", "wide"])), ids()


def pixels() -> tuple[nn.Module, Tensor]:
    return adapt(Pixels(), r=2, target_modules=["first", "grouped"]), torch.randn(6, 4, 9, 9)


def lora_pixels() -> tuple[nn.Module, Tensor]:
    config = LoraConfig(r=2, target_modules=["first", "grouped"])
    return get_peft_model(Pixels(groups=1), config), torch.randn(6, 4, 9, 9)  # PEFT has no dense update of groups


def deep_experts() -> tuple[nn.Module, Tensor]:
    config = DeepLoraConfig(r=2, target_modules=[], target_parameters=["moe.experts", "moe.matrix"])
    return get_peft_model(Nest(), config), torch.randn(7, 8)


def lora_experts() -> tuple[nn.Module, Tensor]:
    config = LoraConfig(r=2, target_modules=[], target_parameters=["moe.experts", "moe.matrix"])
    return get_peft_model(Nest(), config), torch.randn(7, 8)


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear and embedding": mixed,
    "depth 1": lambda: mixed(depth=1),
    "depth 5": lambda: mixed(depth=5),
    "the paper's start": lambda: mixed(init_scale=0.1, core_scale=1.0, subtract_start=False),
    "narrow": lambda: mixed(variant="narrow", init_scale=0.5),
    "frozen subspaces": lambda: mixed(freeze_subspaces=True),
    "convolutions": pixels,
    "experts": deep_experts,
    "LoRA": lora_mixed,
    "LoRA, convolutions": lora_pixels,
    "LoRA, experts": lora_experts,
}


def dense(model: nn.Module) -> list[Tensor]:
    """All dense updates, (experts, out, in) or flattened to (1, out, in)."""
    layers = list(adapted_layers(model).values()) or [m for m in model.modules() if isinstance(m, LoraLayer)]
    updates = [layer.get_delta_weight("default").detach().clone() for layer in layers]
    return [u if u.ndim == 3 else u.flatten(1)[None] for u in updates]


def norms(model: nn.Module) -> list[Tensor]:
    layers = list(adapted_layers(model).values()) or [m for m in model.modules() if isinstance(m, LoraLayer)]
    weights = [layer.get_param() if hasattr(layer, "get_param") else layer.get_base_layer().weight for layer in layers]
    stacks = [w if w.ndim == 3 else w.flatten(1)[None] for w in weights]
    return [stack.detach().flatten(1).norm(dim=1) for stack in stacks]


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def run(
    model: nn.Module,
    x: Tensor,
    *,
    rate: float = 1e-2,
    make: Callable[..., Optimizer] = AdamW,
    schedule: Callable[[Optimizer], Any] = lambda o: LambdaLR(o, lambda t: 1 - t / STEPS),
    steps: int = STEPS,
    **settings: Any,
) -> tuple[StepRule, list[list[Tensor]], list[float]]:
    """Train on one batch; return the rule, all updates in their order, and what the guard left at each step."""
    optimizer = make(trained(model), lr=rate)
    scheduler = schedule(optimizer)
    rule = StepRule(optimizer, model, steps, **({"path": PATH, "scheduler": scheduler} | settings))
    target = torch.randn(model(x).shape, generator=torch.Generator().manual_seed(3))
    updates, guards = [dense(model)], []
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        updates.append(dense(model))
        guards.append(rule.guard)
    return rule, updates, guards


def seeded(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return MODELS[kind]()
