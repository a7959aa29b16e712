"""Every mode of a temperature: value, gradient, bound, and what is saved."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modality import Temperature, reparameterize_logit_scale_, temperature_parameter_groups
from tests.modality.trainers import clip

MODES = ("fixed", "learnable", "softplus", "exp", "scheduled")
LEARNED = ("learnable", "softplus", "exp")


@pytest.mark.parametrize("mode", MODES)
@given(tau=st.floats(0.011, 2.0))
def test_a_temperature_starts_and_is_set_where_it_is_told(mode, tau) -> None:
    temperature = Temperature(tau, mode, scale=2.0)
    assert temperature().item() == pytest.approx(
        1 / tau, rel=1e-5
    )  # nu in float32, times up to log(100) in the exponent
    temperature.set_tau(0.3)
    assert temperature.tau == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "definition"),
    [
        ("learnable", torch.exp),
        ("softplus", lambda nu: torch.log1p(torch.exp(nu))),
        ("exp", lambda nu: torch.exp(nu / 3)),
    ],
)
def test_learned_modes_are_their_formulas_with_their_gradients(mode, definition) -> None:
    temperature = Temperature(0.2, mode, scale=3.0).double()
    (gradient,) = torch.autograd.grad(temperature(), temperature.nu)
    nu = temperature.nu.detach().requires_grad_()
    (expected,) = torch.autograd.grad(definition(nu), nu)
    torch.testing.assert_close(temperature(), definition(nu), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", LEARNED)
def test_a_learned_temperature_comes_back_to_the_bound_and_leaves_it_again(mode) -> None:
    temperature = Temperature(0.05, mode, maximum_inverse=50.0)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=1.0)
    (-100 * temperature()).backward()
    optimizer.step()
    assert temperature().item() == pytest.approx(50.0, rel=1e-5)
    assert temperature.tau == pytest.approx(0.02, rel=1e-5)
    optimizer.zero_grad()
    temperature().backward()
    assert temperature.nu.grad > 0


def test_two_forward_passes_may_share_one_backward_pass() -> None:
    temperature = Temperature(0.07, "softplus")
    (temperature() + temperature()).backward()
    assert temperature.nu.grad.item() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_temperature_is_in_the_state_dict_and_learned_only_where_it_says_so(mode) -> None:
    temperature = Temperature(0.05, mode)
    assert (len(list(temperature.parameters())) == 1) is (mode in LEARNED) is temperature.learned
    other = Temperature(0.3, mode)
    other.load_state_dict(temperature.state_dict())
    assert torch.equal(other(), temperature())


def test_half_precision_models_have_a_float32_temperature() -> None:
    temperature = Temperature(0.05, "learnable").bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert temperature().dtype == torch.float32


def test_the_temperature_learns_slower_and_is_not_decayed() -> None:
    model = nn.ModuleDict({"tower": nn.Linear(3, 2), "temperature": Temperature(mode="exp")})
    groups = temperature_parameter_groups(model, lr=0.5, factor=0.1, weight_decay=0.2)
    (slow,) = [group for group in groups if any(p is model["temperature"].nu for p in group["params"])]
    assert slow["lr"] == pytest.approx(0.05) and slow["weight_decay"] == 0 and len(slow["params"]) == 1
    assert sorted((len(g["params"]), g["lr"], g["weight_decay"]) for g in groups if g is not slow) == [
        (1, 0.5, 0.0), (1, 0.5, 0.2),
    ]  # fmt: skip
    optimizer = torch.optim.SGD(groups)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    steps = {name: (before[name] - p).mean().item() for name, p in model.named_parameters()}
    assert steps["temperature.nu"] == pytest.approx(0.05) and steps["tower.bias"] == pytest.approx(0.5)


@pytest.mark.parametrize("reparameterized", [False, True])
def test_groups_cover_every_trained_parameter_once_and_know_a_logit_scale(reparameterized) -> None:
    model = clip()
    model.vision_model.requires_grad_(False)
    if reparameterized:
        reparameterize_logit_scale_(model, "softplus")
    groups = temperature_parameter_groups(model, lr=1.0)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert [len(group["params"]) for group in groups if group["lr"] == 0.1] == [1]
    assert math.isclose(model.logit_scale.item(), 2.6592, rel_tol=1e-6)


def test_an_inverse_temperature_in_the_place_of_a_temperature_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="divides the cosines, which makes all pairs alike.*1 / value, 0.06993"):
        Temperature(14.3)
