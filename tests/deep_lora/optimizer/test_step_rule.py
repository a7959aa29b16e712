"""The step rule: its guard, resuming, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from transformers.optimization import get_linear_schedule_with_warmup

from deep_lora import DeepLoraConfig, adapted_layers
from deep_lora.optimizer.lengths import guard
from deep_lora.optimizer.paces import CLASSES, SCORES, SIMILARITIES, TOKENS
from deep_lora.optimizer.steps import StepRule
from tests.deep_lora.optimizer.ruled import MOST, PATH, STEPS, dense, norms, run, seeded, trained
from tests.models import Mixed, adapt, adapter_tensors, bert_classifier, gpt2, ids


def test_the_guard_closes_where_the_data_are_learned_by_heart_and_stays_open_where_they_are_not() -> None:
    torch.manual_seed(0)
    closed = []
    for learnable in (True, False):
        model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), DeepLoraConfig(r=8, target_modules=["0"]))
        optimizer = AdamW(trained(model), lr=1e-2, weight_decay=0.0)
        rule = StepRule(optimizer, model, 200, path=20.0)
        x = torch.randn(4, 8)
        with torch.no_grad():
            target = model(x) + 0.3 * torch.randn(4, 8)
        for _ in range(200):
            optimizer.zero_grad()
            output = model(x)
            loss = (output - target).square().mean() if learnable else output.sum() / 10
            loss.backward()
            optimizer.step()
        closed.append(rule.guard)
    assert closed[0] < 0.02 and closed[1] > 0.9


@pytest.mark.parametrize("limit", [0.05, 1e3])
def test_clipping_does_not_keep_the_guard_from_hearing(limit: float) -> None:
    runs = []
    for settings in ({"max_grad_norm": limit}, {}):
        model, x = seeded("linear and embedding")
        runs.append(run(model, x, make=SGD, **settings))
    (_, clipped, heard), (_, free, guards) = runs
    assert heard == pytest.approx(guards, rel=1e-2)
    for a, b in zip(clipped[-1], free[-1], strict=True):  # SGD's direction does not change with the clipping
        assert torch.allclose(a, b, atol=1e-2 * b.abs().max().item())


def _start() -> tuple[nn.Module, Tensor, Optimizer, Any]:
    model, x = seeded("linear and embedding")
    optimizer = AdamW(trained(model), lr=1e-2)
    return model, x, optimizer, get_linear_schedule_with_warmup(optimizer, 2, STEPS)


def _steps(model: nn.Module, x: Tensor, optimizer: Optimizer, scheduler: Any, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("late", [False, True])  # whether the rule is set after the state was loaded, as in a Trainer
def test_a_run_that_is_resumed_ends_bit_for_bit_as_one_that_was_not(late: bool) -> None:
    model, x, optimizer, scheduler = _start()
    StepRule(optimizer, model, STEPS, scheduler=scheduler)
    _steps(model, x, optimizer, scheduler, 5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    _steps(model, x, optimizer, scheduler, STEPS - 5)
    again, x, optimizer, scheduler = _start()
    if not late:
        StepRule(optimizer, again, STEPS)
    for holder, state in zip((again, optimizer, scheduler), saved, strict=True):
        holder.load_state_dict(state)
    if late:
        StepRule(optimizer, again, STEPS, scheduler=scheduler, resume=True)
    _steps(again, x, optimizer, scheduler, STEPS - 5)
    for name, expected in adapter_tensors(model).items():
        assert torch.equal(expected, adapter_tensors(again)[name]), name


def test_a_new_run_with_the_same_optimizer_starts_over() -> None:
    model, x = seeded("linear and embedding")
    optimizer = AdamW(trained(model), lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        rule = StepRule(optimizer, model, STEPS)
        assert rule.guard == 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(STEPS):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
        rule.remove()


def test_what_is_trained_beside_the_adapter_keeps_the_optimizers_own_steps() -> None:
    model, x = seeded("linear and embedding")
    heads = []
    for ruled in (True, False):
        torch.manual_seed(0)
        model = adapt(Mixed(), r=2, target_modules=["square"], modules_to_save=["head"]).train()
        optimizer = AdamW(trained(model), lr=1e-2)
        if ruled:
            StepRule(optimizer, model, STEPS)
        model(x).square().mean().backward()
        optimizer.step()
        heads.append(next(p.detach() for n, p in model.named_parameters() if "modules_to_save" in n and p.ndim == 2))
    assert torch.equal(*heads)


def test_gradients_accumulate_as_ever_and_adapters_that_are_not_trained_stay() -> None:
    torch.manual_seed(0)
    model = adapt(Mixed(), r=2, target_modules=["square", "tall"])
    model.add_adapter("other", DeepLoraConfig(r=3, depth=2, target_modules=["square"]))
    model.set_adapter("default")
    before = {name: p.detach().clone() for name, p in adapter_tensors(model).items()}
    optimizer = AdamW(trained(model), lr=1e-2)
    StepRule(optimizer, model, STEPS)
    for part in ids(4).split(2):
        model(part).square().mean().backward()
    optimizer.step()
    moved = {name for name, p in adapter_tensors(model).items() if not torch.equal(p, before[name])}
    assert moved and all(".default" in name for name in moved)


def test_two_adapters_that_are_trained_together_go_each_its_own_way() -> None:
    torch.manual_seed(0)
    model = adapt(Mixed(), r=2, target_modules=["square", "tall"])
    model.add_adapter("other", DeepLoraConfig(r=3, depth=2, target_modules=["square"]))
    model.base_model.set_adapter(["default", "other"])
    optimizer = AdamW(trained(model), lr=1e-2)
    StepRule(optimizer, model, STEPS, path=PATH)
    layer = adapted_layers(model, "other")[next(iter(adapted_layers(model, "other")))]
    before = {name: layer.get_delta_weight(name).detach().clone() for name in ("default", "other")}
    model(ids()).square().mean().backward()
    optimizer.step()
    for name, old in before.items():
        length = (layer.get_delta_weight(name) - old).norm() / layer.get_base_layer().weight.norm()
        assert length.item() == pytest.approx(PATH / STEPS, rel=MOST)


def test_a_step_that_is_not_finite_is_left_to_show_and_one_of_no_length_moves_nothing() -> None:
    model, x = seeded("linear and embedding")
    optimizer = SGD(trained(model), lr=1e-2)
    rule = StepRule(optimizer, model, STEPS)
    for p in trained(model):
        p.grad = torch.zeros_like(p)
    before = dense(model)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, dense(model), strict=True)) and rule.guard == 1.0
    for p in trained(model):
        p.grad = torch.full_like(p, torch.nan)
    optimizer.step()
    assert any(not torch.isfinite(p).all() for p in trained(model))


def test_a_rate_of_zero_moves_nothing_and_the_guard_does_not_listen() -> None:
    model, x = seeded("linear and embedding")
    rule, updates, guards = run(model, x, schedule=lambda o: get_linear_schedule_with_warmup(o, 4, STEPS))
    assert all(torch.equal(a, b) for a, b in zip(updates[0], updates[1], strict=True))
    assert rule.group["step_rule_state"][2] == STEPS - 1


def test_half_precision_adapters_go_about_as_far() -> None:
    torch.manual_seed(0)
    model = adapt(Mixed().bfloat16(), r=2, target_modules=["square", "tall"], autocast_adapter_dtype=False)
    assert {p.dtype for p in trained(model)} == {torch.bfloat16}
    optimizer = AdamW(trained(model), lr=1e-2)
    StepRule(optimizer, model, STEPS, path=PATH * 10)
    before = dense(model)
    model(ids()).square().mean().backward()
    optimizer.step()
    for old, new, norm in zip(before, dense(model), norms(model), strict=True):
        assert (new - old).float().norm().item() == pytest.approx(PATH * 10 / STEPS * norm.float().item(), rel=0.3)


def test_a_weight_of_zeros_gets_the_length_of_a_usual_start() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    nn.init.zeros_(net[1].weight)
    model = get_peft_model(net, DeepLoraConfig(r=2, target_modules=["1"]))
    optimizer = AdamW(trained(model), lr=1e-2)
    StepRule(optimizer, model, STEPS, path=PATH)
    model(torch.randn(3, 6)).sum().backward()
    optimizer.step()
    assert dense(model)[0].norm().item() == pytest.approx(PATH * math.sqrt(4) / STEPS, rel=MOST)


def test_tied_adapters_are_moved_once() -> None:
    torch.manual_seed(0)
    model = adapt(gpt2(), r=2, target_modules=["wte", "lm_head"], ensure_weight_tying=True)
    optimizer = AdamW(list({id(p): p for p in trained(model)}.values()), lr=1e-2)
    StepRule(optimizer, model, STEPS, path=PATH)
    layers = list(adapted_layers(model).values())
    assert len(layers) == 2
    before = layers[0].get_delta_weight("default").detach().clone()
    model(ids(), labels=ids()).loss.backward()
    optimizer.step()
    length = (layers[0].get_delta_weight("default") - before).norm() / layers[0].get_base_layer().weight.norm()
    assert length.item() == pytest.approx(PATH / STEPS, rel=MOST)


def test_bad_numbers_and_optimizers_are_refused() -> None:
    model, _ = seeded("linear and embedding")
    optimizer = AdamW(trained(model), lr=1e-2)
    for steps in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match="`num_steps` must be the number of optimizer steps of the whole run"):
            StepRule(optimizer, model, steps)  # type: ignore[arg-type]
    for path in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="`path` must be positive, a share of the weights' norms"):
            StepRule(optimizer, model, STEPS, path=path)
    with pytest.raises(ValueError, match="tensors of the adapter are not in the optimizer, as under DeepSpeed"):
        StepRule(AdamW(trained(model)[:-1], lr=1e-2), model, STEPS)
    with pytest.raises(ValueError, match="the model has no trained adapter of Deep LoRA or LoRA; make one with"):
        StepRule(optimizer, Mixed(), STEPS)

    class ScheduleFree(AdamW):
        def train(self) -> None: ...

        def eval(self) -> None: ...

    with pytest.raises(ValueError, match="ScheduleFree keeps a second copy of the weights, whose steps cannot be set"):
        StepRule(ScheduleFree(trained(model), lr=1e-2), model, STEPS)
    silent = get_peft_model(Mixed(), LoraConfig(r=2, lora_alpha=0, target_modules=["square"]))
    with pytest.raises(ValueError, match="has a scaling of 0, so no step moves the weight; set `lora_alpha`"):
        StepRule(AdamW(trained(silent), lr=1e-2), silent, STEPS)
    with torch.device("meta"):
        empty = get_peft_model(Mixed(), DeepLoraConfig(r=2, target_modules=["square"]))
    with pytest.raises(ValueError, match="is on the meta device, so its norm is unknown; load it before"):
        StepRule(AdamW(trained(empty), lr=1e-2), empty, STEPS)


def test_runs_that_cannot_learn_are_named() -> None:
    model, x = seeded("linear and embedding")
    optimizer = AdamW(trained(model), lr=1e-2)
    with pytest.warns(UserWarning, match="the run makes 3 optimizer steps, which may be too few to learn from"):
        StepRule(optimizer, model, 3)
    model(x).square().mean().backward()
    for _ in range(3):
        optimizer.step()
    with pytest.warns(UserWarning, match="more steps than the 3 that the step rule was given; pass the true number"):
        optimizer.step()


def test_tensors_that_no_gradient_reaches_are_named() -> None:
    torch.manual_seed(0)
    model = adapt(bert_classifier(), r=2, target_modules=["query", "pooler.dense"])
    optimizer = AdamW(trained(model), lr=1e-2)
    StepRule(optimizer, model, STEPS)
    model.base_model.model.bert(ids()).last_hidden_state.square().mean().backward()
    before = dense(model)
    with pytest.warns(UserWarning, match="no gradient reached 3 of 9 tensors of the adapter in the first step"):
        optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, dense(model), strict=True)]
    assert moved == [True, True, False]


def test_the_guards_formula() -> None:
    state = torch.tensor([1.0, 4.0, 9.0])
    powers = {TOKENS: 2, CLASSES: 2, SCORES: 1, SIMILARITIES: 6}
    assert all(guard(state, pace).item() == pytest.approx(4.0**-power) for pace, power in powers.items())
