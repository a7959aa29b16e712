"""The step rule under study: lengths are those of dense updates, and runs go as far as their path."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.result_files import read_json
from benchmarks.studies.step_rule.rule import PathRule, RuledSteps, SlopeGuard, stacks_of, step_norm
from benchmarks.studies.step_rule.search import SETTINGS, Trial, trials_of
from deep_lora import DeepLoraConfig, adapted_layers

STEPS = 12
EPS = torch.finfo(torch.float32).eps


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(10, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).tanh()).tanh())


def adapted(kind: str) -> nn.Module:
    torch.manual_seed(0)
    targets = ["first", "second"]
    config = LoraConfig(r=2, target_modules=targets) if kind == "lora" else DeepLoraConfig(r=2, target_modules=targets)
    return get_peft_model(Net(), config)


def dense(model: nn.Module) -> list[Tensor]:
    """The updates of all adapted modules, in the order of the stacks."""
    layers = list(adapted_layers(model).values()) or [m for m in model.modules() if hasattr(m, "lora_A")]
    return [layer.get_delta_weight("default").detach().clone() for layer in layers]


def run(model: nn.Module, rule: PathRule, rate: float = 1e-2) -> tuple[RuledSteps, list[list[Tensor]]]:
    """Train on a fixed batch with a falling rate; return the updates before and after each step."""
    torch.manual_seed(1)
    x, y = torch.randn(16, 10), torch.randn(16, 3)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    ruled = RuledSteps(optimizer, model, rule, sum(1 - step / STEPS for step in range(STEPS)))
    updates = [dense(model)]
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        schedule.step()
        updates.append(dense(model))
    return ruled, updates


def test_the_norm_of_a_step_is_that_of_the_dense_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 7, 3), (5, 6, 3), (5, 7, 3), (5, 6, 3))
    P, V, dP, dV = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    expected = ((P + dP) @ (V + dV).mT - P @ V.mT).flatten(1).norm(dim=1)
    assert torch.allclose(step_norm(P, V, dP, dV), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["deep_lora", "lora"])
def test_every_step_has_the_length_that_the_path_and_the_schedule_ask_for(kind: str) -> None:
    model = adapted(kind)
    rule = PathRule(path=0.05, cap=10.0)
    ruled, updates = run(model, rule)
    norms = [stack.norms for stack in ruled.stacks]
    assert sum(map(len, norms)) == len(updates[0]) == 2
    weights = [model.base_model.model.get_submodule(name).get_base_layer().weight for name in ("first", "second")]
    total = sum(1 - step / STEPS for step in range(STEPS))
    for step, (before, after) in enumerate(pairwise(updates)):
        for weight, old, new in zip(weights, before, after, strict=True):
            wanted = rule.path * weight.norm() * (1 - step / STEPS) / total
            assert (new - old).norm() == pytest.approx(wanted.item(), rel=0.01)  # three fixed-point iterations


@pytest.mark.parametrize("kind", ["deep_lora", "lora"])
def test_the_learning_rate_plays_no_part(kind: str) -> None:
    one, other = (run(adapted(kind), PathRule(path=0.05, cap=10.0), rate)[1][-1] for rate in (1e-3, 1e-1))
    for mine, theirs in zip(one, other, strict=True):
        assert (mine - theirs).norm() <= 0.03 * mine.norm()


def test_the_cap_holds_for_every_factor() -> None:
    model = adapted("deep_lora")
    before = copy.deepcopy([[p.detach() for p in module] for s in stacks_of(model) for module in s.parameters])
    stepped, rule = copy.deepcopy(model), PathRule(path=50.0, cap=0.1)
    optimizer = torch.optim.SGD([p for p in stepped.parameters() if p.requires_grad], lr=1.0)
    RuledSteps(optimizer, stepped, rule, 1.0)
    stepped(torch.randn(4, 10)).square().sum().backward()
    optimizer.step()
    after = [module for stack in stacks_of(stepped) for module in stack.parameters]
    for old, new in zip(before, after, strict=True):
        for start, parameter in zip(old, new, strict=True):
            parts = zip(start, parameter, strict=True) if start.ndim == 3 else [(start, parameter)]
            assert all((b - a).norm() <= rule.cap * a.norm() * (1 + 10 * EPS) for a, b in parts)


def test_the_guard_shortens_steps_as_slopes_fall_and_zero_power_is_none() -> None:
    free, _ = run(adapted("deep_lora"), PathRule(path=0.5))
    assert free.guards == [1.0] * STEPS
    guarded, _ = run(adapted("deep_lora"), PathRule(path=0.5, power=2.0))
    guard = SlopeGuard(power=2.0, memory=0.8)
    assert guarded.guards == [guard(slope) for slope in guarded.slopes] and min(guarded.guards) < 1.0


def test_the_slope_is_the_decrease_of_the_loss_for_each_share_that_the_weights_move() -> None:
    model = adapted("deep_lora").double()
    x, y, path = torch.randn(16, 10).double(), torch.randn(16, 3).double(), 1e-5
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ruled = RuledSteps(optimizer, model, PathRule(path=path), 1.0)
    before = (model(x) - y).square().mean()
    before.backward()
    optimizer.step()
    decrease = before - (model(x) - y).square().mean()
    assert decrease.item() == pytest.approx(2 * ruled.slopes[0] * path, rel=1e-3)  # of two modules


def test_the_search_does_whole_comparisons_seed_by_seed() -> None:
    settings = read_json(SETTINGS / "step_search.json")
    trials = list(trials_of(settings))
    wanted = 0
    for asked in settings["settings"].values():
        once = set(asked["variants"]) & set(asked.get("one_seed", settings["one_seed"]))
        wanted += asked["seeds"] * len(asked["variants"]) - (asked["seeds"] - 1) * len(once)
    assert len(trials) == len(set(trials)) == wanted
    first = next(iter(settings["settings"]))
    assert trials[0] == Trial(first, settings["settings"][first]["variants"][0], settings["first_seed"])
    assert all((SETTINGS / f"{setting}.json").is_file() for setting in settings["settings"])
    assert min(trial.seed for trial in trials) >= 200  # of the compared seeds none
