"""The step rule under autocast, loss scaling, 8-bit optimizers and torch.compile: every step has its length."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from deep_lora import create_optimizer
from deep_lora.optimizer.lengths import guard
from deep_lora.optimizer.paces import TOKENS
from tests.deep_lora.optimizer.ruled import MOST, dense, norms
from tests.models import adapt, ids, llama

STEPS, PATH = 12, 0.02
Steps = Callable[[Optimizer, torch.Tensor], None]


def plain_step(optimizer: Optimizer, loss: torch.Tensor) -> None:
    loss.backward()
    optimizer.step()


def assert_lengths(
    *,
    context: Any = None,
    step: Steps = plain_step,
    wrap: Callable[[nn.Module], Any] = lambda net: net,
    optimizer_cls: type[Optimizer] = AdamW,
    **settings: Any,
) -> Optimizer:
    """Train a language model, and see that every step is as long as the path and the guard ask for."""
    torch.manual_seed(0)
    model = adapt(llama(), r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = wrap(model)
    optimizer = create_optimizer(wrapped, optimizer_cls, num_steps=STEPS, path=PATH, max_grad_norm=1.0, **settings)
    updates = dense(model)
    for number in range(STEPS):
        optimizer.zero_grad()
        batch = ids(seed=number % 2)
        with nullcontext() if context is None else context:
            loss = wrapped(input_ids=batch, labels=batch).loss
        step(optimizer, loss)
        before, updates = updates, dense(model)
        left = float(guard(optimizer.param_groups[0]["step_rule_state"], TOKENS))
        for old, new, norm in zip(before, updates, norms(model), strict=True):
            assert (new - old).norm().item() == pytest.approx(PATH / STEPS * left * norm.item(), rel=2 * MOST)
    assert left < 1 and optimizer.param_groups[0]["step_rule_steps"] == STEPS
    return optimizer


def test_under_autocast_to_bfloat16() -> None:
    assert_lengths(context=torch.autocast("cpu", dtype=torch.bfloat16))


def test_under_autocast_to_float16_the_guard_hears_gradients_without_the_scale_of_the_loss() -> None:
    heard = []
    for size in (1.0, 2.0**12):
        scaler = torch.amp.GradScaler("cpu", init_scale=size)

        def step(optimizer: Optimizer, loss: torch.Tensor, scaler: Any = scaler) -> None:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        optimizer = assert_lengths(context=torch.autocast("cpu", dtype=torch.float16), step=step)
        heard.append(float(optimizer.param_groups[0]["step_rule_state"][1]))
    assert heard[0] == pytest.approx(heard[1], rel=0.05)


def test_a_step_that_the_scaler_leaves_out_is_not_counted() -> None:
    torch.manual_seed(0)
    model = adapt(llama(), r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    optimizer = create_optimizer(model, num_steps=STEPS)
    scaler = torch.amp.GradScaler("cpu")
    for infinite in (True, False):
        optimizer.zero_grad()
        scaler.scale(model(input_ids=ids(), labels=ids()).loss * (torch.inf if infinite else 1)).backward()
        before = dense(model)
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(a, b) for a, b in zip(before, dense(model), strict=True)) == infinite
    assert optimizer.param_groups[0]["step_rule_steps"] == 1


def test_with_an_8_bit_optimizer() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    try:
        tensor = nn.Parameter(torch.ones(8, 8))
        tensor.grad = torch.ones(8, 8)
        bitsandbytes.optim.AdamW8bit([tensor], min_8bit_size=1).step()
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"bitsandbytes has no 8-bit AdamW on this machine: {error}")
    optimizer = assert_lengths(optimizer_cls=bitsandbytes.optim.AdamW8bit, min_8bit_size=1)
    assert {state["state1"].dtype for state in optimizer.state.values()} == {torch.uint8}


def test_of_a_compiled_model() -> None:
    assert_lengths(wrap=lambda net: torch.compile(net, backend="aot_eager"))
