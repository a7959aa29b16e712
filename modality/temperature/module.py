"""`Temperature`: the scale of the logits, fixed, learned in several ways, or driven by a schedule."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from modality.temperature.schedules import is_positive_number

Mode = Literal["fixed", "learnable", "softplus", "exp", "scheduled"]


class Map(NamedTuple):
    """The inverse temperature as a function of what is stored, and the inverse of that function for numbers."""

    inverse_temperature: Callable[[Tensor], Tensor]
    stored: Callable[[float], float]


def temperature_map(mode: Mode, scale: float = 1.0) -> Map:
    """Return the map `nu -> 1 / tau` of a mode, and its inverse.

        fixed, scheduled: 1 / nu      learnable: exp(nu)      softplus: log(1 + e^nu)      exp: exp(nu / scale)

    Source: Yaras et al., CPAL 2025, temperature reparameterization (TR); "learnable" is CLIP's, Radford et al., 2021.

    Raises:
        ValueError: for another mode, or a scale that is not positive.

    >>> temperature_map("exp", scale=2.0).inverse_temperature(torch.tensor(2.0))
    tensor(2.7183)
    """
    if not is_positive_number(scale):
        raise ValueError(f"`scale` must be a positive number, got {scale!r}; the paper uses 2 and 10")
    maps = {
        "fixed": Map(torch.reciprocal, lambda inverse: 1 / inverse),
        "scheduled": Map(torch.reciprocal, lambda inverse: 1 / inverse),
        "learnable": Map(torch.exp, math.log),
        "softplus": Map(F.softplus, lambda inverse: inverse + math.log(-math.expm1(-inverse))),
        "exp": Map(lambda nu: torch.exp(nu / scale), lambda inverse: scale * math.log(inverse)),
    }
    if mode not in maps:
        raise ValueError(f"`mode` must be one of {list(maps)}, got {mode!r}")
    return maps[mode]


class Temperature(nn.Module):
    """The inverse temperature `1 / tau` by which cosines are multiplied; `forward()` returns it.

    Modes, with what is stored as `nu`:

    - "fixed": tau stays (FLT); "scheduled": the same, but `TemperatureScheduleCallback` or `set_tau` changes it.
    - "learnable": 1 / tau = exp(nu), as in CLIP.
    - "softplus": 1 / tau = log(1 + e^nu) (TR); "exp": 1 / tau = exp(nu / scale) (TR).

    The learned modes keep `nu` in a parameter, which is clamped to `maximum_inverse` before each training forward pass,
    as in CLIP; the others keep tau in a buffer, so it is saved with the model in every mode. `nu` stays in float32 when
    the model is cast to half precision, which would swallow its steps. Do not decay the parameter;
    `temperature_parameter_groups` also gives it a smaller learning rate.

    Args:
        initial: tau at the start.
        mode: see above.
        scale: s of "exp".
        maximum_inverse: upper bound of a learned 1 / tau; None for no bound.

    Source: Yaras et al., CPAL 2025, temperature reparameterization (TR); Radford et al., ICML 2021 (0.07, and
    the bound of 100).

    >>> Temperature(0.05)()
    tensor(20.)
    >>> round(Temperature(0.07, mode="softplus").tau, 4)
    0.07
    """

    nu: Tensor

    def __init__(
        self,
        initial: float = 0.07,
        mode: Mode = "fixed",
        scale: float = 1.0,
        maximum_inverse: float | None = 100.0,
    ) -> None:
        super().__init__()
        temperature_map(mode, scale)
        self.mode, self.scale, self.maximum_inverse, self.initial = mode, scale, maximum_inverse, initial
        check_tau(initial)
        if initial > 1:
            warnings.warn(
                f"a temperature of {initial} divides the cosines, which makes all pairs alike; for an inverse "
                f"temperature of this value, such as CLIP's `logit_scale.exp()`, pass 1 / value, {1 / initial:.4g}",
                stacklevel=2,
            )
        if maximum_inverse is not None and not 0 < maximum_inverse < math.inf:
            raise ValueError(f"`maximum_inverse` must be positive, or None for no bound, got {maximum_inverse!r}")
        if self.learned and maximum_inverse is not None and 1 / initial > maximum_inverse:
            raise ValueError(
                f"an initial temperature of {initial} is an inverse of {1 / initial:.4g}, above "
                f"`maximum_inverse={maximum_inverse}`; raise one of the two"
            )
        nu = torch.tensor(self._map.stored(1 / initial))
        if self.learned:
            self.nu = nn.Parameter(nu)
        else:
            self.register_buffer("nu", nu)

    @property
    def _map(self) -> Map:
        return temperature_map(self.mode, self.scale)

    @property
    def learned(self) -> bool:
        """Whether `nu` is a parameter."""
        return self.mode in ("learnable", "softplus", "exp")

    def forward(self) -> Float[Tensor, ""]:
        if self.learned and self.training and self.maximum_inverse is not None:
            # `.data`, so that two forward passes may share one backward pass.
            self.nu.data.clamp_(max=self._map.stored(self.maximum_inverse))
        with torch.autocast(self.nu.device.type, enabled=False):
            return self._map.inverse_temperature(self.nu.float() if self.nu.dtype.itemsize < 4 else self.nu)

    @property
    def tau(self) -> float:
        """The temperature."""
        with torch.no_grad():
            return 1 / self._map.inverse_temperature(self.nu.cpu().double()).item()

    @torch.no_grad()
    def set_tau(self, value: float) -> None:
        """Set the temperature, in any mode.

        Raises:
            ValueError: if it is not positive and finite.
        """
        check_tau(value)
        self.nu.fill_(self._map.stored(1 / value))

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "initial": self.initial, "mode": self.mode, "scale": self.scale, "maximum_inverse": self.maximum_inverse,
        }  # fmt: skip

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Temperature:
        before = self.nu.detach().clone()
        super()._apply(fn, recurse)
        keep_float32_(self.nu, before)
        return self

    def extra_repr(self) -> str:
        return f"tau={self.tau:.4g}, mode={self.mode!r}"


def keep_float32_(scalar: Tensor, exact: Tensor | None = None) -> None:
    """Store a scalar of half precision in float32, in place, with the value that it had before it was cast, if given.

    >>> scale = nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16))
    >>> keep_float32_(scale, torch.tensor(2.6592))
    >>> scale.dtype, round(scale.item(), 4)
    (torch.float32, 2.6592)
    """
    if not scalar.is_floating_point() or scalar.dtype.itemsize >= 4:
        return
    gradient, scalar.grad = scalar.grad, None
    scalar.data = (scalar if exact is None else exact).detach().to(scalar.device, torch.float32)
    if gradient is not None:
        scalar.grad = gradient.float()


def check_tau(value: float) -> None:
    """Raise unless the value can be a temperature."""
    if not is_positive_number(value):
        raise ValueError(f"a temperature must be positive and finite, got {value!r}; 0.07 is CLIP's start")
