"""Optimizers for an adapter: with the step rule, or with the discrepant rates of the paper."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.optimizer.factored import adapter_parameters
from deep_lora.optimizer.steps import StepRule

ADAPTER_GROUP, CORES_GROUP, SUBSPACES_GROUP = "adapter", "deep_lora_core", "deep_lora_subspaces"
OTHER_RATE = 1e-3  # of what is trained beside the adapter, such as a new head

# The paper's. With n cores kappa c_l that start at kappa c_l = eps I, the gradient of a stored core c_l starts at
# kappa^n (eps / kappa)^(n-1) = kappa eps^(n-1) times that of dW: with n = 3 and r = 8, 1e-5 at the small start
# eps = 1e-3 (where PyTorch's 1e-8 gives other first steps), and 0.06 at the default start eps = 0.3.
ADAM_EPS = 1e-6


def parameter_groups(
    model: nn.Module, lr: float, gamma: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Make optimizer groups: cores at `lr`, U and V at `gamma * lr`, everything else trainable at `lr`.

    Parameters are found by visiting the layers, never by name; shared ones appear once, frozen ones not at all.

    Args:
        model: a PEFT model, or any module that holds Deep LoRA layers.
        lr: rate of the cores, positive.
        gamma: rate of U and V relative to `lr`, positive; the paper's is 0.01. `DeepLoraConfig.freeze_subspaces` keeps
            them fixed.
        weight_decay: for matrices; vectors (biases, norms) get none.

    Raises:
        ValueError: if a number is out of range, or the model has no trainable Deep LoRA parameter.

    Source: the discrepant learning rates of Yaras et al., ICML 2024.

    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), DeepLoraConfig(r=2, target_modules=["0"]))
    >>> [(group["name"], group["lr"]) for group in parameter_groups(model, lr=1e-2, gamma=0.1)]
    [('deep_lora_core', 0.01), ('deep_lora_subspaces', 0.001)]
    """
    _check_numbers(lr, gamma, weight_decay)
    cores: dict[nn.Parameter, None] = {}  # an ordered set
    subspaces: dict[nn.Parameter, float] = {}
    for layer in adapted_layers(model).values():
        _collect(layer, cores, subspaces, gamma)
    if not cores and not subspaces:
        raise ValueError(
            "the model has no trainable Deep LoRA parameter; make it with `get_peft_model(model, DeepLoraConfig(...))` "
            "and check that the adapter is active and not in inference mode"
        )
    others = [p for p in model.parameters() if p.requires_grad and p not in cores and p not in subspaces]
    groups = [_group(CORES_GROUP, list(cores), lr, weight_decay)]
    for ratio in sorted(set(subspaces.values()), reverse=True):
        members = [parameter for parameter, own in subspaces.items() if own == ratio]
        groups.append(_group(SUBSPACES_GROUP, members, ratio * lr, weight_decay))
    return [group for group in [*groups, *_other_groups(others, lr, weight_decay)] if group["params"]]


def create_optimizer(
    model: nn.Module,
    optimizer_cls: type[Optimizer] = torch.optim.AdamW,
    *,
    num_steps: int | None = None,
    lr: float | None = None,
    gamma: float | None = None,
    weight_decay: float = 0.0,
    path: float | None = None,
    max_grad_norm: float | None = None,
    likelihood: bool | None = None,
    **kwargs: Any,
) -> Optimizer:
    """Make an optimizer that trains an adapter with nothing to tune, for a training loop of your own.

    With `num_steps`, the adapter (Deep LoRA's or PEFT's LoRA) is trained by the step rule
    (`deep_lora.optimizer.steps.StepRule`): the learning rate has no influence on it, only its schedule does. `lr` is
    the rate of what is trained beside it. In a Trainer, `deep_lora.prepare(trainer)` does this and more. Without
    `num_steps`, `lr` is the rate of all, as in the paper: `create_optimizer(model, lr=1e-2, gamma=1e-2)`.

    Args:
        optimizer_cls: any optimizer, bitsandbytes' 8-bit ones included, that takes parameters of every shape (the cores
            have three axes, which torch's Muon refuses). If it takes one number as `eps` and none is given, it gets
            1e-6, the paper's setting, which matters at a small start.
        num_steps: optimizer steps of the whole run.
        lr: 1e-3 by default, with the rule.
        gamma: without the rule, the rate of U and V relative to that of the cores (see `parameter_groups`); 1 by
            default.
        path: with the rule, how far a weight may go in the whole run, as a share of its norm; None for its choice.
        max_grad_norm: with the rule, clips the gradients of all parameters; do not clip them elsewhere: the rule
            needs them as they were.
        likelihood: with the rule, whether the loss is a cross-entropy, of tokens or of classes, as it is for the models
            of transformers that predict them; pass True for a head of your own with such a loss.
        kwargs: handed to `optimizer_cls`.

    Raises:
        ValueError: if a number is missing or out of range, or the model has no trained adapter.

    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), DeepLoraConfig(r=2, target_modules=["0"]))
    >>> [group["name"] for group in create_optimizer(model, num_steps=100).param_groups]
    ['adapter']
    """
    eps = inspect.signature(optimizer_cls).parameters.get("eps")
    if eps is not None and isinstance(eps.default, float):  # Adafactor's is a pair of other numbers
        kwargs.setdefault("eps", ADAM_EPS)
    if num_steps is None:
        _check_without_rule(lr, path, max_grad_norm, likelihood)
        groups = parameter_groups(model, lr or 0.0, 1.0 if gamma is None else gamma, weight_decay)
        return optimizer_cls(groups, lr=lr, **kwargs)  # type: ignore[call-arg]
    if gamma is not None:
        raise ValueError(
            "`gamma` scales a learning rate, which with `num_steps` does not affect the adapter; leave it out"
        )
    rate = OTHER_RATE if lr is None else lr
    _check_numbers(rate, 1.0, weight_decay)
    ruled = optimizer_cls(_ruled_groups(model, rate, weight_decay), lr=rate, **kwargs)  # type: ignore[call-arg]
    StepRule(ruled, model, num_steps, path=path, max_grad_norm=max_grad_norm, likelihood=likelihood)
    return ruled


def _ruled_groups(model: nn.Module, rate: float, weight_decay: float) -> list[dict[str, Any]]:
    ours = adapter_parameters(model)
    known = set(map(id, ours))
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [_group(ADAPTER_GROUP, ours, rate, weight_decay), *_other_groups(others, rate, weight_decay)]
    return [group for group in groups if group["params"]]


def _other_groups(parameters: list[nn.Parameter], rate: float, weight_decay: float) -> list[dict[str, Any]]:
    return [
        _group("other", [p for p in parameters if p.ndim > 1], rate, weight_decay),
        _group("other_no_decay", [p for p in parameters if p.ndim <= 1], rate, 0.0),
    ]


def _check_without_rule(
    lr: float | None, path: float | None, max_grad_norm: float | None, likelihood: bool | None
) -> None:
    if lr is None:
        raise ValueError(
            "the number of optimizer steps is missing; pass `num_steps=`, epochs times batches, and nothing has to be "
            "tuned; or choose a learning rate with `lr=` to train without the step rule"
        )
    if path is not None or max_grad_norm is not None or likelihood is not None:
        raise ValueError("`path`, `max_grad_norm` and `likelihood` belong to the step rule, which needs `num_steps`")


def _check_numbers(lr: float, gamma: float, weight_decay: float) -> None:
    if not lr > 0:
        raise ValueError(f"`lr` must be positive, got {lr}")
    if not gamma > 0:
        raise ValueError(
            f"`gamma` must be positive, got {gamma}; set `DeepLoraConfig(freeze_subspaces=True)` to keep U and V fixed"
        )
    if not weight_decay >= 0:
        raise ValueError(f"`weight_decay` must not be negative, got {weight_decay}")


def _collect(
    layer: DeepLoraLayer, cores: dict[nn.Parameter, None], subspaces: dict[nn.Parameter, float], gamma: float
) -> None:
    for name, core in layer.deep_lora_core.items():
        ratio = gamma if layer.variant[name] == "compressed" else 1.0
        if core.requires_grad:
            cores.setdefault(core)
        for factor in (layer.deep_lora_U[name], layer.deep_lora_V[name]):
            if factor.requires_grad:
                subspaces.setdefault(factor, ratio)


def _group(name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> dict[str, Any]:
    return {"name": name, "params": parameters, "lr": lr, "weight_decay": weight_decay}
