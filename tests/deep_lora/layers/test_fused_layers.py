"""Where the fused step is used, and where it stands aside for plain operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from deep_lora.layers import fused
from tests.deep_lora.layers.fused_cases import IN, OUT, RANK, adapted_linear, goes_through_the_fused_step
from tests.models import adapt, disturb_


@pytest.mark.parametrize("base", [nn.Linear(IN, OUT), nn.Linear(IN, OUT, bias=False), Conv1D(OUT, IN)])
def test_plain_linear_layers_are_fused(base: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    model, layer = adapted_linear(base)
    x = torch.randn(3, 4, IN)
    expected = layer.base_layer(x) + x @ (
        layer.get_delta_weight("default").mT if isinstance(base, nn.Linear) else layer.get_delta_weight("default")
    )
    outputs: list[Tensor] = []
    assert goes_through_the_fused_step(monkeypatch, lambda: outputs.append(model(x)))
    torch.testing.assert_close(outputs[0], expected)


class _Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def _with_hook(base: nn.Linear) -> nn.Linear:
    base.register_forward_hook(lambda module, args, output: 2 * output)
    return base


def _with_replaced_forward(base: nn.Linear) -> nn.Linear:
    forward = base.forward
    base.forward = lambda x: 2 * forward(x)
    return base


@pytest.mark.parametrize(
    "base",
    [
        _Doubled(IN, OUT), _with_hook(nn.Linear(IN, OUT)), _with_replaced_forward(nn.Linear(IN, OUT)),
    ],
    ids=["subclass", "hook", "replaced forward"],
)  # fmt: skip
def test_a_base_layer_that_does_more_is_called_as_it_is(base: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    model, layer = adapted_linear(base)
    x = torch.randn(3, IN)
    outputs: list[Tensor] = []
    assert not goes_through_the_fused_step(monkeypatch, lambda: outputs.append(model(x)))
    expected = layer.base_layer(x) + x @ layer.get_delta_weight("default").mT
    torch.testing.assert_close(outputs[0], expected)
    plain = nn.functional.linear(x, layer.get_base_layer().weight, layer.get_base_layer().bias)
    torch.testing.assert_close(layer.base_layer(x), 2 * plain)


def test_a_trained_bias_gets_its_gradient() -> None:
    model, layer = adapted_linear(bias="all")
    model(torch.randn(3, IN)).sum().backward()
    torch.testing.assert_close(layer.get_base_layer().bias.grad, torch.full((OUT,), 3.0))


def test_dropout_while_training_is_not_fused_but_evaluation_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = adapted_linear(deep_lora_dropout=0.5)
    x = torch.randn(3, IN)
    assert not goes_through_the_fused_step(monkeypatch, lambda: model.train()(x))
    assert goes_through_the_fused_step(monkeypatch, lambda: model.eval()(x))


def test_compilers_tracers_and_transforms_see_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layer = adapted_linear()
    model.eval()
    x = torch.randn(3, IN)
    expected = model(x).detach()

    def compiled() -> None:
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)

    def transformed() -> None:
        torch.testing.assert_close(torch.func.vmap(layer)(x), expected)

    def traced() -> None:
        torch.testing.assert_close(torch.jit.trace(layer, x, check_trace=False)(x), expected)

    for run in (compiled, transformed, traced):
        assert not goes_through_the_fused_step(monkeypatch, run), run.__name__


def test_per_sample_gradients_work() -> None:
    model, layer = adapted_linear()
    params = {"deep_lora_U.default": layer.deep_lora_U["default"].detach()}
    x = torch.randn(4, IN)

    def loss(params: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(layer, params, (sample,)).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)["deep_lora_U.default"]
    model(x).square().sum().backward()
    torch.testing.assert_close(grads.sum(0), layer.deep_lora_U["default"].grad)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(use_reentrant: bool) -> None:
    grads = []
    for recompute in (False, True):
        model, layer = adapted_linear()
        x = torch.randn(3, IN, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = checkpoint(model, x, use_reentrant=use_reentrant) if recompute else model(x)
        y.square().sum().backward()
        grads.append([x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)])
    assert len(grads[0]) == 4
    for ours, reference in zip(*grads, strict=True):
        assert torch.equal(ours, reference)


def test_the_output_may_be_overwritten_in_place() -> None:
    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = adapt(nn.Sequential(nn.Linear(IN, OUT), nn.ReLU(inplace=inplace)), target_modules=["0"], r=RANK)
        disturb_(model)
        x = torch.ones(2, 3, IN, requires_grad=True)
        y = model(x)
        y.sum().backward()
        results.append((y.detach(), x.grad))
    for ours, reference in zip(*results, strict=True):
        assert torch.equal(ours, reference)


def test_several_active_adapters_are_one_step_of_summed_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layer = adapted_linear()
    model.add_adapter("second", model.peft_config["default"])
    disturb_(model)
    model.base_model.set_adapter(["default", "second"])
    x = torch.randn(3, IN)
    outputs: list[Tensor] = []
    assert goes_through_the_fused_step(monkeypatch, lambda: outputs.append(model(x)))
    update = layer.get_delta_weight("default") + layer.get_delta_weight("second")
    torch.testing.assert_close(outputs[0], layer.base_layer(x) + x @ update.mT)
    outputs[0].square().sum().backward()
    assert all(p.grad is not None for name, p in layer.named_parameters() if "deep_lora" in name)


def test_no_active_adapter_is_the_base_layer_alone() -> None:
    model, layer = adapted_linear()
    model.base_model.set_adapter([])
    x = torch.randn(3, IN)
    assert torch.equal(model(x), layer.base_layer(x))


def test_hooks_on_all_modules_are_noticed() -> None:
    base = nn.Linear(IN, OUT).requires_grad_(False)
    assert fused.frozen_linear(base) is not None
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    try:
        assert fused.frozen_linear(base) is None
    finally:
        handle.remove()
