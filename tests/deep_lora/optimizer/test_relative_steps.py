"""`create_optimizer(max_relative_step=...)`: what a step may be, what is left alone, and which rates become one."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from deep_lora import create_optimizer
from tests.models import Mixed, adapt, adapter_tensors, ids

LIMIT, STEPS = 0.03, 4


def _model() -> nn.Module:
    torch.manual_seed(0)
    settings = {"target_modules": ["square", "tall"], "init_weights": False, "modules_to_save": ["head"]}
    return adapt(Mixed().double(), r=2, autocast_adapter_dtype=False, **settings).double().train()


def _gradients(model: nn.Module, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def _trained(lr: float, limit: float | None, steps: int = STEPS, **settings) -> nn.Module:
    """Steps with given gradients and a rate that falls to 0 in a line."""
    model = _model()
    optimizer = create_optimizer(model, lr=lr, max_relative_step=limit, **settings)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / steps)
    for number in range(steps):
        _gradients(model, number)
        optimizer.step()
        schedule.step()
    return model


def test_steps_are_cut_to_a_share_of_the_norm_that_falls_with_the_rate_and_others_are_left_alone() -> None:
    model = _trained(1.0, LIMIT, optimizer_cls=SGD)
    expected = _model()
    limited = set(map(id, adapter_tensors(expected).values()))
    cut = 0
    for number in range(STEPS):
        _gradients(expected, number)
        left = 1 - number / STEPS
        for parameter in [p for p in expected.parameters() if p.requires_grad]:
            step = -left * parameter.grad
            if id(parameter) in limited:
                share = LIMIT * left * parameter.data.norm() / step.norm()
                cut += int(share < 1)
                step = step * min(1.0, share.item())
            parameter.data += step
    assert cut == STEPS * len(limited)
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_a_low_rate_is_obeyed_as_it_is() -> None:
    limited, free = _trained(1e-5, LIMIT), _trained(1e-5, None)
    for ours, theirs in zip(limited.parameters(), free.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_rates_that_are_too_high_are_all_the_same() -> None:
    found = [adapter_tensors(_trained(rate, LIMIT)) for rate in (1.0, 100.0)]
    free = adapter_tensors(_trained(1.0, None))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name])
        assert (tensor - free[name]).norm() > tensor.norm()


def test_without_a_scheduler_the_limit_stays() -> None:
    model = _model()
    before = copy.deepcopy(adapter_tensors(model))
    optimizer = create_optimizer(model, lr=1.0, max_relative_step=LIMIT)
    _gradients(model, 0)
    optimizer.step()
    for name, tensor in adapter_tensors(model).items():
        assert ((tensor - before[name]).norm() / before[name].norm()).item() == pytest.approx(LIMIT)


def _shares(schedule_of, steps: int = 20, metric: bool = False) -> list[tuple[float, float]]:
    """Rate and largest relative step, step by step, where every step is long enough to be cut."""
    model = _model()
    optimizer = create_optimizer(model, SGD, lr=1.0, max_relative_step=LIMIT)
    schedule, found = schedule_of(optimizer), []
    for _ in range(steps):
        before = copy.deepcopy(adapter_tensors(model))
        for tensor in adapter_tensors(model).values():
            tensor.grad = 1e3 * torch.ones_like(tensor)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step(*[1.0] * metric)
        moved = [((t - before[name]).norm() / before[name].norm()).item() for name, t in adapter_tensors(model).items()]
        found.append((rate, max(moved)))
    return found


def test_schedulers_that_start_low_or_wait_for_a_metric_scale_the_limit_and_never_lift_it() -> None:
    one_cycle = _shares(lambda o: OneCycleLR(o, max_lr=1.0, total_steps=21, cycle_momentum=False))
    higher = _shares(lambda o: OneCycleLR(o, max_lr=5.0, total_steps=21, cycle_momentum=False))
    cyclic = _shares(lambda o: CyclicLR(o, base_lr=0.1, max_lr=1.0, step_size_up=5, cycle_momentum=False))
    plateau = _shares(lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0), metric=True)
    for found, highest in ((one_cycle, 1.0), (higher, 5.0), (cyclic, 1.0), (plateau, 1.0)):
        assert len({rate for rate, _ in found}) > 5
        for rate, share in found:
            assert share == pytest.approx(LIMIT * rate / highest)


def test_a_closure_that_makes_the_gradients_inside_of_the_step_is_limited_too() -> None:
    model = _model()
    optimizer = create_optimizer(model, SGD, lr=1.0, max_relative_step=LIMIT)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 10 * model(ids()).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        before = copy.deepcopy(adapter_tensors(model))
        optimizer.step(closure)
        for name, tensor in adapter_tensors(model).items():
            assert ((tensor - before[name]).norm() / before[name].norm()).item() == pytest.approx(LIMIT, rel=1e-4)


def test_an_optimizer_with_a_second_copy_of_the_weights_is_refused() -> None:
    class ScheduleFree(SGD):
        def train(self) -> None: ...

        def eval(self) -> None: ...

    with pytest.raises(ValueError, match="ScheduleFree holds a second copy of the weights.* leave the limit out"):
        create_optimizer(_model(), ScheduleFree, lr=1.0, max_relative_step=LIMIT)
    create_optimizer(_model(), ScheduleFree, lr=1.0)


def test_the_rate_that_the_limit_goes_by_is_saved_with_the_optimizer() -> None:
    first = create_optimizer(_model(), SGD, lr=1.0, max_relative_step=LIMIT)
    for group in first.param_groups:
        group["lr"] = 0.25  # by a scheduler, when the run was cut
    model = _model()
    second = create_optimizer(model, SGD, lr=0.25, max_relative_step=LIMIT)
    second.load_state_dict(first.state_dict())
    before = copy.deepcopy(adapter_tensors(model))
    for tensor in adapter_tensors(model).values():
        tensor.grad = 1e3 * torch.ones_like(tensor)
    second.step()
    for name, tensor in adapter_tensors(model).items():
        assert ((tensor - before[name]).norm() / before[name].norm()).item() == pytest.approx(0.25 * LIMIT)


def test_the_limit_holds_through_accelerate_and_for_parameters_without_a_gradient() -> None:
    model = _model()
    optimizer = create_optimizer(model, AdamW, lr=1.0, max_relative_step=LIMIT)
    model, prepared = Accelerator(cpu=True).prepare(model, optimizer)
    before = copy.deepcopy(adapter_tensors(model))
    frozen = next(name for name in before if "square" in name and name.endswith("U.default"))
    adapter_tensors(model)[frozen].requires_grad_(False)
    model(ids()).sum().backward()
    prepared.step()
    for name, tensor in adapter_tensors(model).items():
        share = ((tensor - before[name]).norm() / before[name].norm()).item()
        assert share == pytest.approx(0.0 if name == frozen else LIMIT)


def test_no_step_stays_none_and_one_that_is_not_finite_shows() -> None:
    model = _model()
    tensors = list(adapter_tensors(model).values())
    optimizer = create_optimizer(model, SGD, lr=1.0, max_relative_step=LIMIT)
    before = tensors[0].clone()
    tensors[0].grad, tensors[1].grad = torch.zeros_like(tensors[0]), torch.full_like(tensors[1], torch.nan)
    optimizer.step()
    assert torch.equal(tensors[0], before) and tensors[1].isnan().all()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_not_positive_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="the limit of relative steps must be positive, got"):
        create_optimizer(_model(), lr=1.0, max_relative_step=limit)
