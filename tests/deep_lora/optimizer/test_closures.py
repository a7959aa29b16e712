"""The step rule where an optimizer makes the gradients itself, by a closure, as LBFGS does, or ascends."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from deep_lora.optimizer.steps import StepRule
from tests.deep_lora.optimizer.ruled import MOST, PATH, STEPS, dense, norms, seeded, trained
from tests.models import adapter_tensors


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("limit", [None, 1e-3])
def test_a_closure_makes_the_steps_that_its_gradients_make_before_them(by_name: bool, limit: float | None) -> None:
    runs = []
    for with_closure in (False, True):
        model, x = seeded("linear and embedding")
        optimizer = AdamW(trained(model), lr=1e-2)
        rule = StepRule(optimizer, model, STEPS, max_grad_norm=limit)

        def closure(model=model, x=x, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (model(x) - 1).square().mean()
            loss.backward()
            return loss

        heard = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(STEPS):
                if with_closure:
                    optimizer.step(**{"closure": closure}) if by_name else optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
                heard.append((rule.guard, float(torch.nn.utils.get_total_norm([p.grad for p in trained(model)]))))
        runs.append((heard, adapter_tensors(model)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(tensor, runs[1][1][name]) for name, tensor in runs[0][1].items())


def test_a_closure_that_is_called_several_times_in_a_step_is_heard_where_the_step_begins() -> None:
    model, x = seeded("linear and embedding")
    optimizer = torch.optim.LBFGS(trained(model), max_iter=3, line_search_fn="strong_wolfe")
    StepRule(optimizer, model, STEPS, path=PATH)
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses.append((model(x) - 1).square().mean())
        losses[-1].backward()
        return losses[-1]

    before = dense(model)
    first = optimizer.step(closure)
    assert len(losses) > 1 and float(first) == float(losses[0])
    wanted = [PATH / STEPS * float(norm) for norm in norms(model)]
    lengths = [float((after - old).norm()) for after, old in zip(dense(model), before, strict=True)]
    assert lengths == pytest.approx(wanted, rel=MOST)


def test_an_optimizer_that_maximizes_hears_as_one_that_minimizes_the_opposite() -> None:
    runs = []
    for sign in (1, -1):
        model, x = seeded("linear and embedding")
        optimizer = AdamW(trained(model), lr=1e-2, maximize=sign < 0)
        rule = StepRule(optimizer, model, STEPS)
        guards = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            (sign * (model(x) - 1).square().mean()).backward()
            optimizer.step()
            guards.append(rule.guard)
        runs.append((guards, dense(model)))
    assert runs[0][0] == runs[1][0] and min(runs[0][0]) < 1
    assert all(torch.equal(one, other) for one, other in zip(runs[0][1], runs[1][1], strict=True))
