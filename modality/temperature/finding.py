"""The temperature of any model: where it is, how to read and set it, and a learning rate of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from modality.temperature.module import Temperature, check_tau, keep_float32_

_NAME = re.compile(r"(^|_)logit_scale(_|$)")
_TAU = "temperature"  # divides the cosines as it is (ALIGN)
_REPARAMETERIZED = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")


class TemperatureHandle(NamedTuple):
    """A temperature in a model: its name, and how to read, set and freeze it."""

    name: str
    tau: Callable[[], float]
    set_tau: Callable[[float], None]
    parameters: list[nn.Parameter]

    def freeze(self) -> None:
        """Stop training it, and drop its gradient."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def base_model_of(model: Any) -> Any:
    """Return the model inside DDP and PEFT wrappers.

    >>> linear = nn.Linear(2, 2)
    >>> base_model_of(nn.DataParallel(linear)) is linear
    True
    """
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return base_model_of(model.module)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_temperature(model: nn.Module, parameter: str | None = None) -> TemperatureHandle:
    """Find the only temperature of a model, inside any wrapper.

    It is the model's `Temperature` module, or else its one-element parameter called `logit_scale` (CLIP, ChineseCLIP,
    SigLIP, AltCLIP, BLIP, VisionTextDualEncoder), or with `logit_scale` in its name, of which `exp` is 1 / tau, or else
    a one-element parameter called `temperature`, which is tau (ALIGN). One of half precision moves to float32 when it
    is set, since a bfloat16 tau may be off by 1 %.

    Args:
        model: any module.
        parameter: the end of its name, where there are several.

    Raises:
        ValueError: if there is none, or more than one.

    >>> find_temperature(nn.Sequential(nn.Linear(2, 2), Temperature(0.05))).name
    '1'
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Temperature)}
    named = {name: p for name, p in model.named_parameters() if is_scale(name.split(".")[-1], p)}
    plain = {name: p for name, p in named.items() if not is_tau(name)} or named
    handles = [_of_module(name, module) for name, module in modules.items()] if not parameter else []
    if not handles:
        both: dict[str, Any] = {**modules, **plain} if parameter else dict(plain)
        handles = [
            _of_module(name, found) if isinstance(found, Temperature) else _of_parameter(name, found)
            for name, found in both.items()
            if parameter is None or f".{name}".endswith(f".{parameter}")
        ]
    if len(handles) != 1:
        reparameterized = [name for name, _ in model.named_parameters() if _REPARAMETERIZED.search(name)]
        raise ValueError(
            f"{type(model).__name__} has {len(handles)} temperatures to set: {[h.name for h in handles]} (of "
            f"{[*modules, *plain]}, reparameterized and left alone: {reparameterized}); name one with `parameter=`, or "
            "give the model a `Temperature` module"
        )
    return handles[0]


def learned_temperatures(model: nn.Module) -> list[nn.Parameter]:
    """List every trained parameter that is a temperature: in `Temperature` modules, or a `logit_scale` in any form.

    >>> [parameter.shape for parameter in learned_temperatures(Temperature(mode="softplus"))]
    [torch.Size([])]
    """
    inside = {id(p) for module in model.modules() if isinstance(module, Temperature) for p in module.parameters()}
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (id(parameter) in inside or is_scale(_attribute_of(name), parameter))
    ]


def temperature_parameter_groups(
    model: nn.Module, lr: float, factor: float = 0.1, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Make groups for any torch optimizer in which the temperature learns at `factor * lr` (SLRT), without decay.

        optimizer = torch.optim.AdamW(temperature_parameter_groups(model, lr=1e-3))
        Trainer(model, arguments, optimizers=(optimizer, None), ...)

    Temperatures are what `Temperature` modules learn, and every `logit_scale`, reparameterized or not. They are put
    into float32, in place: in half precision the steps of a usual rate are less than half a unit in the last place.

    Args:
        model: any module.
        lr: learning rate of everything else that is trained.
        factor: learning rate of the temperature, relative to `lr`.
        weight_decay: of matrices; vectors (biases, norms) are not decayed, as in Trainer.

    Raises:
        ValueError: for a number out of range, or a model that learns no temperature.

    Source: Yaras et al., CPAL 2025, a smaller rate for the temperature (SLRT), with a factor of 0.1.

    >>> from modality.temperature.module import Temperature
    >>> model = nn.Sequential(nn.Linear(2, 2), Temperature(mode="learnable"))
    >>> [(group["lr"], len(group["params"])) for group in temperature_parameter_groups(model, lr=1.0)]
    [(1.0, 1), (1.0, 1), (0.1, 1)]
    """
    for name, value in (("lr", lr), ("factor", factor), ("weight_decay", weight_decay)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be a number of at least 0, got {value!r}")
    learned = learned_temperatures(model)
    for parameter in learned:
        keep_float32_(parameter)
    temperatures = {id(parameter) for parameter in learned}
    if not temperatures:
        raise ValueError(
            f"{type(model).__name__} learns no temperature that could have its own learning rate: it has neither a "
            "trainable `logit_scale` nor a Temperature of mode 'learnable', 'softplus' or 'exp'"
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    others = [parameter for parameter in trained if id(parameter) not in temperatures]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in others if p.dim() < 2], "lr": lr, "weight_decay": 0.0},
        {"params": [p for p in trained if id(p) in temperatures], "lr": factor * lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def is_scale(attribute: str, value: torch.Tensor) -> bool:
    """Tell whether an attribute is a model's own temperature, by its name and by being one number.

    >>> [is_scale(name, torch.tensor(1.0)) for name in ("logit_scale_a", "temperature", "scale")]
    [True, True, False]
    """
    return value.numel() == 1 and value.dim() <= 1 and bool(_NAME.search(attribute) or is_tau(attribute))


def is_tau(name: str) -> bool:
    """Tell whether a parameter of this name is tau itself, and not the logarithm of 1 / tau.

    >>> is_tau("model.temperature"), is_tau("model.logit_scale")
    (True, False)
    """
    return name.split(".")[-1] == _TAU


def _attribute_of(name: str) -> str:
    """Return the last part of a parameter's name, or what its parametrization stands for."""
    found = _REPARAMETERIZED.search(name)
    return found.group(2) if found else name.split(".")[-1]


def _of_module(name: str, module: Temperature) -> TemperatureHandle:
    return TemperatureHandle(name, lambda: module.tau, module.set_tau, list(module.parameters()))


def _of_parameter(name: str, parameter: nn.Parameter) -> TemperatureHandle:
    def set_tau(value: float) -> None:
        check_tau(value)
        keep_float32_(parameter)
        with torch.no_grad():
            parameter.fill_(value if is_tau(name) else -math.log(value))

    def tau() -> float:
        return parameter.item() if is_tau(name) else math.exp(-parameter.item())

    return TemperatureHandle(name, tau, set_tau, [parameter])
