"""Learn the `logit_scale` of a transformers model through another variable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modality.temperature.finding import base_model_of, find_temperature, is_scale, is_tau
from modality.temperature.module import keep_float32_, temperature_map


def reparameterize_logit_scale_(
    model: nn.Module, mode: Literal["softplus", "exp"], *, scale: float = 1.0, parameter: str | None = None
) -> nn.Module:
    """Learn a transformers model's `logit_scale` through another variable nu (TR), in place.

        softplus: 1 / tau = log(1 + e^nu)      exp: 1 / tau = exp(nu / scale)

    The model still reads `logit_scale = log(1 / tau)`, with an unchanged value, but trains nu. Call this before the
    optimizer is created. Checkpoints hold both: a plain model takes `logit_scale` and reports nu as unexpected; a
    reparameterized one takes nu, bit for bit, or computes it from `logit_scale` if there is no nu.

    Args:
        model: any model with one `logit_scale`, also inside PEFT; a `Temperature` module has its own modes.
        mode, scale: see above.
        parameter: the end of its name, if there are several.

    Returns:
        The model.

    Raises:
        ValueError: for another mode, for a model that stores tau itself (ALIGN), or if there is no such parameter, or
            more than one.

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
    handle = find_temperature(model, parameter)
    name = handle.name
    if name not in dict(model.named_parameters()):
        raise ValueError(f"{name!r} is a Temperature; make it with mode={mode!r} instead")
    if is_tau(name):
        raise ValueError(
            f"{name!r} of {type(model).__name__} is tau itself and not a logit_scale; put the model into a "
            f"`ContrastiveModel` with `temperature=Temperature(mode={mode!r})`"
        )
    keep_float32_(handle.parameters[0])
    path, _, attribute = name.rpartition(".")
    holder = model.get_submodule(path)
    plain_class = type(holder)
    parametrize.register_parametrization(holder, attribute, transform)
    # torch made a subclass for the parametrization; keep the name, which `save_pretrained` writes.
    type(holder).__name__, type(holder).__qualname__ = plain_class.__name__, plain_class.__qualname__
    holder.register_state_dict_post_hook(_SaveBoth(attribute))
    holder.register_load_state_dict_pre_hook(_LoadEither(attribute))
    return model


def reparameterizations(model: nn.Module) -> dict[str, dict[str, Any]]:
    """List the parameters that `reparameterize_logit_scale_` changed, with its arguments, as JSON.

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
    """Repeat what `reparameterizations` found, unless the model already has it.

    Raises:
        ValueError: for a parameter that is reparameterized in another way.
    """
    there = reparameterizations(model)
    for name, settings in wanted.items():
        if there.get(name, settings) != settings:
            raise ValueError(
                f"{name!r} is reparameterized with {settings} in the saved model, and with {there[name]} in the one "
                "that was passed; pass a plain one, or one that is reparameterized alike"
            )
        if name not in there:
            reparameterize_logit_scale_(model, **settings, parameter=name)


class OwnScale(NamedTuple):
    """A temperature that a model brings along: where it is, and how the model reads it."""

    holder: nn.Module
    attribute: str

    @property
    def parameter(self) -> nn.Parameter:
        """What is trained: the attribute itself, or nu if it is reparameterized."""
        reparameterized: Any = self._reparameterized()
        found: Any = getattr(self.holder, self.attribute) if reparameterized is None else reparameterized.original
        return found

    def inverse(self) -> Tensor:
        """Return 1 / tau."""
        value = getattr(self.holder, self.attribute)
        return value.reciprocal() if is_tau(self.attribute) else value.exp()

    @torch.no_grad()
    def set_tau(self, tau: float) -> None:
        """Make the model use this temperature."""
        stored = tau if is_tau(self.attribute) else -math.log(tau)
        wanted = torch.full_like(getattr(self.holder, self.attribute), stored)
        reparameterized: Any = self._reparameterized()
        self.parameter.copy_(wanted if reparameterized is None else reparameterized[0].right_inverse(wanted))

    def _reparameterized(self) -> nn.Module | None:
        found: Any = getattr(self.holder, "parametrizations", {})
        return found[self.attribute] if self.attribute in found else None


def own_scales(model: Any) -> list[OwnScale]:
    """List the temperatures that a model brings along, inside any wrapper; those of its parts only if it has none.

    >>> model = nn.Module()
    >>> model.logit_scale = nn.Parameter(torch.tensor(2.6592))
    >>> [(scale.attribute, round(scale.inverse().item(), 2)) for scale in own_scales(model)]
    [('logit_scale', 14.28)]
    """
    base = base_model_of(model)
    return _scales_of(base) or [scale for module in base.modules() for scale in _scales_of(module)]


def _scales_of(module: nn.Module) -> list[OwnScale]:
    reparameterized: Any = getattr(module, "parametrizations", {})
    names = [name for name, _ in module.named_parameters(recurse=False)] + list(reparameterized)
    return [OwnScale(module, name) for name in names if is_scale(name, getattr(module, name))]


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
