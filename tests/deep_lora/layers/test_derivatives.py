"""Derivatives in every mode that torch has, through every kind of layer: those of the merged model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward
from torch import Tensor, nn

from tests.models import LAYER_CASES, Pixels, adapt, disturb_

CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, Any]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 6)), torch.eye(6), ["0", "2"]),
    "conv2d": (lambda: Pixels(groups=1, dilation=1), LAYER_CASES["conv2d"][1], ["first", "grouped", "head"]),
}


@pytest.fixture(params=CASES)
def models(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor]:
    build, x, targets = CASES[request.param]
    torch.manual_seed(0)
    model = adapt(build(), r=2, target_modules=targets).double()
    disturb_(model)
    return model, copy.deepcopy(model).merge_and_unload(), x.double()


def tangent(model: nn.Module, x: Tensor) -> Tensor:
    with forward.dual_level():
        return forward.unpack_dual(model(forward.make_dual(x, torch.ones_like(x)))).tangent


def curvature(model: nn.Module, x: Tensor) -> Tensor:
    """Forward over reverse: the change of the gradient along the ones."""
    with forward.dual_level():
        dual = forward.make_dual(x.detach().requires_grad_(), torch.ones_like(x))
        (gradient,) = torch.autograd.grad(model(dual).square().sum(), dual, create_graph=True)
        return forward.unpack_dual(gradient).tangent.detach()


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "forward mode": tangent,
    "forward over reverse": curvature,
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (torch.ones_like(x),))[1],
    "vectorized jacobian": lambda model, x: torch.autograd.functional.jacobian(model, x, vectorize=True),
    "forward jacobian": lambda model, x: torch.autograd.functional.jacobian(
        model, x, vectorize=True, strategy="forward-mode"
    ),
    "double backward": lambda model, x: torch.autograd.functional.jvp(model, x, torch.ones_like(x))[1],
}


@pytest.mark.parametrize("way", WAYS)
def test_derivatives_are_those_of_the_merged_model(models: tuple[nn.Module, nn.Module, Tensor], way: str) -> None:
    model, merged, x = models
    torch.testing.assert_close(WAYS[way](model, x), WAYS[way](merged, x))
