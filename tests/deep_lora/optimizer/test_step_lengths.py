"""The step rule on dense updates: every step's length, no influence of the rate, and the shape of every schedule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from transformers.optimization import Adafactor as OtherAdafactor
from transformers.optimization import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from deep_lora.config import FORMAT_VERSION
from deep_lora.optimizer.lengths import CAP
from deep_lora.optimizer.schedules import schedule_sum, share_left
from deep_lora.optimizer.steps import StepRule
from tests.deep_lora.optimizer.ruled import MODELS, MOST, PATH, SHORT, STEPS, mixed, norms, run, seeded, trained
from tests.models import bases_of, cores_of, layers_of


@pytest.mark.parametrize("kind", MODELS)
def test_every_step_has_the_length_that_path_schedule_and_guard_ask_for(kind: str) -> None:
    model, x = seeded(kind)
    path = SHORT.get(kind, PATH)
    _, updates, guards = run(model, x, path=path)
    whole = sum(1 - t / STEPS for t in range(STEPS))
    for t, (before, after) in enumerate(pairwise(updates)):
        for old, new, norm in zip(before, after, norms(model), strict=True):
            wanted = path * norm * (1 - t / STEPS) / whole * guards[t]
            assert torch.allclose((new - old).flatten(1).norm(dim=1), wanted, rtol=MOST, atol=1e-6 * norm.max()), t


@pytest.mark.parametrize("kind", ["linear and embedding", "LoRA"])
def test_the_rate_has_no_influence_from_1e_5_to_10(kind: str) -> None:
    results = []
    for rate in (1e-5, 1e-2, 10.0):
        model, x = seeded(kind)
        results.append(run(model, x, rate=rate, make=lambda p, lr: AdamW(p, lr=lr, weight_decay=0.0))[1][-1])
    for other in results[1:]:
        for expected, found in zip(results[0], other, strict=True):
            assert torch.allclose(expected, found, rtol=0, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize("make", [AdamW, SGD])
@pytest.mark.parametrize("settings", [{}, {"depth": 5}, {"r": 5}], ids=str)
def test_how_small_the_factors_are_stored_has_no_influence(make: type[Optimizer], settings: dict[str, Any]) -> None:
    """Stored scales are for optimizers without the rule; earlier formats had others."""
    ends, scales = [], set()
    for version in (3, FORMAT_VERSION):
        torch.manual_seed(0)
        model, x = mixed(deep_lora_version=version, **settings)
        scales |= {layer.outer_scale["default"] for layer in layers_of(model)}
        ends.append(run(model, x, make=lambda p, lr: make(p, lr=lr, weight_decay=0.0))[1][-1])
    assert len(scales) == 2
    for expected, found in zip(*ends, strict=True):
        assert torch.allclose(expected, found, rtol=0, atol=1e-3 * expected.abs().max().item())


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "AdamW": AdamW,
    "fused": lambda p, lr: AdamW(p, lr=lr, fused=True),
    "foreach": lambda p, lr: AdamW(p, lr=lr, foreach=True),
    "weight decay": lambda p, lr: AdamW(p, lr=lr, weight_decay=0.1),
    "SGD": SGD,
    "Nesterov, foreach": lambda p, lr: SGD(p, lr=lr, momentum=0.9, nesterov=True, foreach=True),
    "RMSprop": RMSprop,
    "Adafactor": Adafactor,
    "Adafactor of transformers": lambda p, lr: OtherAdafactor(p, lr=lr, relative_step=False, scale_parameter=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_goes_the_same_way_in_its_own_direction(name: str) -> None:
    model, x = seeded("linear and embedding")
    _, updates, guards = run(model, x, make=OPTIMIZERS[name])
    whole = sum(1 - t / STEPS for t in range(STEPS))
    for old, new, norm in zip(updates[0], updates[1], norms(model), strict=True):
        assert torch.allclose((new - old).flatten(1).norm(dim=1), PATH * norm / whole, rtol=MOST)
    assert guards[0] == 1.0


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "none": lambda o: None,
    "linear": lambda o: get_linear_schedule_with_warmup(o, 0, STEPS),
    "warm-up": lambda o: get_linear_schedule_with_warmup(o, 4, STEPS),
    "cosine": lambda o: CosineAnnealingLR(o, STEPS),
    "cosine with warm-up": lambda o: get_cosine_schedule_with_warmup(o, 3, STEPS),
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.02, total_steps=STEPS),
    "by steps": lambda o: StepLR(o, 4, 0.1),
    "in sequence": lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=3), ConstantLR(o, 0.5, 100)], [3]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_lengths_have_the_shape_of_the_schedule_and_add_up_to_the_path(name: str) -> None:
    model, x = seeded("linear and embedding")
    _, updates, guards = run(model, x, schedule=SCHEDULES[name])
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler, rates = SCHEDULES[name](optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    gone = 0.0
    for t, (before, after) in enumerate(pairwise(updates)):
        length = (after[1] - before[1]).norm().item() / norms(model)[1].item()
        assert length == pytest.approx(PATH * rates[t] / sum(rates) * guards[t], rel=MOST, abs=1e-7)
        gone += length / guards[t]
    assert gone == pytest.approx(PATH, rel=MOST)


def test_the_sum_of_a_schedule_leaves_it_as_it_was_and_takes_one_that_waits_for_a_metric_as_constant() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = get_linear_schedule_with_warmup(optimizer, 2, 10)
    state = copy.deepcopy(scheduler.state_dict())
    rates = [share_left(optimizer.param_groups[0])]
    assert schedule_sum(scheduler, 10) == pytest.approx(0 + 0.5 + sum(range(1, 9)) / 8)
    assert scheduler.state_dict() == state and share_left(optimizer.param_groups[0]) == rates[0] == 0.0
    assert schedule_sum(ReduceLROnPlateau(SGD([nn.Parameter(torch.zeros(1))], lr=0.1)), 7) == 7.0


def test_without_a_word_on_the_scheduler_a_falling_rate_goes_the_path_and_a_constant_one_too() -> None:
    for schedule in (lambda o: None, lambda o: get_linear_schedule_with_warmup(o, 0, STEPS)):
        model, x = seeded("linear and embedding")
        rule, updates, guards = run(model, x, schedule=schedule, scheduler=None)
        lengths = [
            (b[1] - a[1]).norm() / norms(model)[1] / g for (a, b), g in zip(pairwise(updates), guards, strict=True)
        ]
        assert sum(lengths).item() == pytest.approx(PATH, rel=MOST)


def factors(model: nn.Module) -> list[Tensor]:
    """U, V and the cores with their start."""
    return [tensor.clone() for layer in layers_of(model) for tensor in (*bases_of(layer), cores_of(layer))]


def test_no_factor_moves_further_than_the_cap() -> None:
    model, x = seeded("linear and embedding")
    before = factors(model)
    optimizer = AdamW(trained(model), lr=1e-2, weight_decay=0.0)
    StepRule(optimizer, model, STEPS, path=50.0)
    model(x).square().mean().backward()
    optimizer.step()
    shares = []
    for old, new in zip(before, factors(model), strict=True):
        of = (-2, -1) if old.ndim == 3 else None
        share = (new - old).norm(dim=of) / old.norm(dim=of)
        shares.append(share.max().item())
    assert max(shares) <= CAP * (1 + MOST) and max(shares) == pytest.approx(CAP, rel=MOST)
