"""The step rule under study: lengths are those of dense updates, and runs go as far as their path."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.step_guards import REFERENCES, PathRule, RuledSteps
from deep_lora import DeepLoraConfig, adapted_layers
from deep_lora.optimizer.lengths import MEMORY, Pace, guard, listened

STEPS = 12


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
    ruled = RuledSteps(optimizer, model, STEPS, rule, schedule)
    updates = [dense(model)]
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        schedule.step()
        updates.append(dense(model))
    return ruled, updates


@pytest.mark.parametrize("kind", ["deep_lora", "lora"])
def test_every_step_has_the_length_that_the_path_and_the_schedule_ask_for(kind: str) -> None:
    model = adapted(kind)
    rule = PathRule(path=0.05)
    ruled, updates = run(model, rule)
    assert ruled.guards == [1.0] * STEPS and len(updates[0]) == 2
    weights = [model.base_model.model.get_submodule(name).get_base_layer().weight for name in ("first", "second")]
    total = sum(1 - step / STEPS for step in range(STEPS))
    for step, (before, after) in enumerate(pairwise(updates)):
        for weight, old, new in zip(weights, before, after, strict=True):
            wanted = rule.path * weight.norm() * (1 - step / STEPS) / total
            assert (new - old).norm() == pytest.approx(wanted.item(), rel=0.01)


@pytest.mark.parametrize("kind", ["deep_lora", "lora"])
def test_the_learning_rate_plays_no_part(kind: str) -> None:
    one, other = (run(adapted(kind), PathRule(path=0.05), rate)[1][-1] for rate in (1e-3, 1e-1))
    for mine, theirs in zip(one, other, strict=True):
        assert (mine - theirs).norm() <= 0.03 * mine.norm()


def test_the_guard_shortens_steps_as_slopes_fall_and_zero_power_is_none() -> None:
    free, _ = run(adapted("deep_lora"), PathRule(path=0.5))
    assert free.guards == [1.0] * STEPS
    guarded, _ = run(adapted("deep_lora"), PathRule(path=0.5, power=2.0))
    assert guarded.guards == pytest.approx(expected_guards(guarded.slopes, "first", 2.0), rel=1e-5)
    assert min(guarded.guards) < 1.0


@pytest.mark.parametrize("direction", ["step", "gradient", "library"])
def test_the_slope_is_the_decrease_of_the_loss_for_each_share_that_the_weights_move(direction: str) -> None:
    torch.manual_seed(0)
    model = adapted("deep_lora").double()
    x, y, path = torch.randn(16, 10).double(), torch.randn(16, 3).double(), 1e-4
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ruled = RuledSteps(optimizer, model, 1, PathRule(path=path, direction=direction))
    before = (model(x) - y).square().mean()
    before.backward()
    optimizer.step()
    decrease = before - (model(x) - y).square().mean()
    assert decrease.item() == pytest.approx(2 * ruled.slopes[0] * path, rel=2e-3)  # of two modules


def expected_guards(slopes: list[float], reference: str, power: float) -> list[float]:
    """What the definitions say, from all slopes up to each step."""
    mean, means, guards = 0.0, [], []
    for step, slope in enumerate(slopes, start=1):
        mean = slope if step == 1 else MEMORY * mean + (1 - MEMORY) * slope
        means.append(mean)
        compared = {
            "first": max(slopes[:step][:3]),
            "all": max(slopes[:step][:3] + means[3:]),
            "rms": (sum(s**2 for s in slopes[:step]) / step) ** 0.5,
            "mean": sum(slopes[:step]) / step,
        }
        guards.append(min(1.0, mean / compared[reference]) ** power)
    return guards


@pytest.mark.parametrize("reference", REFERENCES)
def test_the_guard_compares_with_its_reference(reference: str) -> None:
    slopes, pace, state = [2.0, 0.2, 0.2, 40.0, 0.2, 0.1], Pace(0.1, 1.5, REFERENCES[reference]), torch.zeros(3)
    found = []
    for slope in slopes:
        state = listened(state, torch.tensor(slope), torch.tensor(1.0), pace)
        found.append(guard(state, pace).item())
    assert found == pytest.approx(expected_guards(slopes, reference, 1.5), rel=1e-5)
