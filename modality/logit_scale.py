"""The temperature of any model: where it is, how to set it, and how to learn it in another way."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modality.temperature import Temperature, check_tau, temperature_map

_NAME = re.compile(r"(^|_)logit_scale(_|$)")
_REPARAMETERIZED = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")


class TemperatureHandle(NamedTuple):
    """A temperature in a model: its name, how to read, set and freeze it."""

    name: str
    tau: Callable[[], float]
    set_tau: Callable[[float], None]
    parameters: list[nn.Parameter]

    def freeze(self) -> None:
        """Take it out of training, with whatever gradient it has."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def base_model_of(model: Any) -> Any:
    """The model inside DDP and PEFT wrappers.

    >>> linear = nn.Linear(2, 2)
    >>> base_model_of(nn.DataParallel(linear)) is linear
    True
    """
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return base_model_of(model.module)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_temperature(model: nn.Module, parameter: str | None = None) -> TemperatureHandle:
    """The one temperature of a model, inside any wrapper.

    It is the model's `Temperature` module, or else its one-element parameter called `logit_scale` (CLIP, ChineseCLIP,
    SigLIP, AltCLIP, BLIP, VisionTextDualEncoder), or with `logit_scale` in its name, of which `exp` is 1 / tau.

    Args:
        model: any module.
        parameter: the end of its name, where there are several.

    Raises:
        ValueError: if there is none, or more than one.

    >>> find_temperature(nn.Sequential(nn.Linear(2, 2), Temperature(0.05))).name
    '1'
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, Temperature)}
    plain = {name: p for name, p in model.named_parameters() if p.numel() == 1 and _NAME.search(name.split(".")[-1])}
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
            f"{[*modules, *plain]}, reparameterised and left alone: {reparameterized}); name one with `parameter=`, or "
            "give the model a `Temperature` module"
        )
    return handles[0]


def learned_temperatures(model: nn.Module) -> list[nn.Parameter]:
    """Every trained parameter that is a temperature: in `Temperature` modules, or a `logit_scale` in any form.

    >>> [parameter.shape for parameter in learned_temperatures(Temperature(mode="softplus"))]
    [torch.Size([])]
    """
    inside = {id(p) for module in model.modules() if isinstance(module, Temperature) for p in module.parameters()}
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (id(parameter) in inside or _scale_name(name) and parameter.numel() == 1)
    ]


def reparameterize_logit_scale_(
    model: nn.Module, mode: Literal["softplus", "exp"], *, scale: float = 1.0, parameter: str | None = None
) -> nn.Module:
    """Learn a transformers model's `logit_scale` through another variable nu (TR), in place.

        softplus: 1 / tau = log(1 + e^nu)      exp: 1 / tau = exp(nu / scale)

    The model goes on reading `logit_scale = log(1 / tau)`, which starts where it was; what is trained is nu, and it has
    to be done before the optimizer is made. Checkpoints hold both: a plain model takes `logit_scale` and reports nu as
    unexpected; one that is reparameterised takes nu, bit for bit, or computes it from `logit_scale` if there is no nu.

    Args:
        model: any model with one `logit_scale`, also inside PEFT; a `Temperature` module has a mode instead.
        mode, scale: see above.
        parameter: the end of its name, where there are several.

    Returns:
        The model.

    Raises:
        ValueError: for another mode, or if there is no such parameter, or more than one.

    Source: Yaras et al., CPAL 2025, temperature reparameterization; s in {2, 10}.

    >>> model = nn.Module()
    >>> model.logit_scale = nn.Parameter(torch.tensor(2.6592))
    >>> model = reparameterize_logit_scale_(model, "softplus")
    >>> round(model.logit_scale.item(), 4), [name for name, _ in model.named_parameters()]
    (2.6592, ['parametrizations.logit_scale.original'])
    """
    if mode not in ("softplus", "exp"):
        raise ValueError(f"`mode` must be 'softplus' or 'exp', got {mode!r}; a logit_scale is learned as exp(nu) as is")
    transform = _LogInverse(mode, scale)
    name = find_temperature(model, parameter).name
    if name not in dict(model.named_parameters()):
        raise ValueError(f"{name!r} is a Temperature; make it with mode={mode!r} instead")
    path, _, attribute = name.rpartition(".")
    holder = model.get_submodule(path)
    plain_class = type(holder)
    parametrize.register_parametrization(holder, attribute, transform)
    # The class of its own that torch has made is called as before: `save_pretrained` writes the name down.
    type(holder).__name__, type(holder).__qualname__ = plain_class.__name__, plain_class.__qualname__
    holder.register_state_dict_post_hook(_SaveBoth(attribute))
    holder.register_load_state_dict_pre_hook(_LoadEither(attribute))
    return model


def reparameterizations(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The name of every parameter that `reparameterize_logit_scale_` changed, with the arguments that it had; JSON.

    >>> model = nn.Module()
    >>> model.logit_scale = nn.Parameter(torch.tensor(2.6592))
    >>> reparameterizations(reparameterize_logit_scale_(model, "exp", scale=2.0))
    {'logit_scale': {'mode': 'exp', 'scale': 2.0}}
    """
    return {
        path.removesuffix(".0").replace("parametrizations.", ""): {"mode": module.mode, "scale": module.scale}
        for path, module in model.named_modules()
        if isinstance(module, _LogInverse)
    }


def reparameterize_as_(model: nn.Module, wanted: dict[str, dict[str, Any]]) -> None:
    """Repeat what `reparameterizations` found, where it is not done yet.

    Raises:
        ValueError: for a parameter that was reparameterised in another way.
    """
    there = reparameterizations(model)
    for name, settings in wanted.items():
        if there.get(name, settings) != settings:
            raise ValueError(
                f"{name!r} is reparameterised with {settings} in the saved model, and with {there[name]} in the one "
                "that was passed; pass a plain one, or one that is reparameterised alike"
            )
        if name not in there:
            reparameterize_logit_scale_(model, **settings, parameter=name)


def own_logit_scale(model: Any) -> nn.Parameter | None:
    """What a model's `logit_scale` stores, inside any wrapper: itself, or the nu that it is computed from."""
    base = base_model_of(model)
    parametrizations = getattr(base, "parametrizations", {})
    if "logit_scale" in parametrizations:
        return parametrizations["logit_scale"].original
    scale = getattr(base, "logit_scale", None)
    return scale if isinstance(scale, nn.Parameter) else None


@torch.no_grad()
def set_logit_scale_(model: Any, value: float) -> None:
    """Give a model's `logit_scale`, reparameterised or not, a value."""
    base, own = base_model_of(model), own_logit_scale(model)
    if own is not None:
        wanted = torch.full_like(base.logit_scale, value)
        own.copy_(wanted if own is base.logit_scale else base.parametrizations["logit_scale"][0].right_inverse(wanted))


def _scale_name(name: str) -> bool:
    """Whether a parameter is called `logit_scale`, by itself or as what a parametrization stores."""
    found = _REPARAMETERIZED.search(name)
    return bool(_NAME.search(found.group(2) if found else name.split(".")[-1]))


class _LogInverse(nn.Module):
    """nu -> log(1 / tau), and back."""

    def __init__(self, mode: Literal["softplus", "exp"], scale: float) -> None:
        super().__init__()
        self.mode, self.scale, self.mapping = mode, scale, temperature_map(mode, scale)

    def forward(self, nu: Tensor) -> Tensor:
        return self.mapping.inverse_temperature(nu).log()

    def right_inverse(self, logit_scale: Tensor) -> Tensor:
        stored = [self.mapping.stored(math.exp(value)) for value in logit_scale.flatten().tolist()]
        return torch.tensor(stored).to(logit_scale).reshape(logit_scale.shape)


@dataclass
class _SaveBoth:
    attribute: str

    def __call__(self, module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        state[f"{prefix}{self.attribute}"] = getattr(module, self.attribute).detach()


@dataclass
class _LoadEither:
    attribute: str

    def __call__(self, module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
        value = state.pop(f"{prefix}{self.attribute}", None)
        original = f"{prefix}parametrizations.{self.attribute}.original"
        if value is not None and original not in state:
            state[original] = module.parametrizations[self.attribute][0].right_inverse(value)


def _of_module(name: str, module: Temperature) -> TemperatureHandle:
    return TemperatureHandle(name, lambda: module.tau, module.set_tau, list(module.parameters()))


def _of_parameter(name: str, parameter: nn.Parameter) -> TemperatureHandle:
    def set_tau(value: float) -> None:
        check_tau(value)
        with torch.no_grad():
            parameter.fill_(-math.log(value))

    return TemperatureHandle(name, lambda: math.exp(-parameter.item()), set_tau, [parameter])
