"""The fused step equals the plain one in value and in all derivatives, keeps little, and stands aside where it must."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from deep_lora import fused
from deep_lora.functional import add_low_rank_update, low_rank_input
from deep_lora.fused import FusedLinear, fused_linear
from deep_lora.linear import Linear
from tests.models import adapt, disturb_, layers_of

IN, OUT, RANK = 6, 5, 2


def _arguments(dtype: torch.dtype = torch.float64, tokens: int = 7, rank: int = RANK) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((tokens, IN), (OUT, IN), (OUT,), (IN, rank), (rank, rank), (OUT, rank))
    x, weight, bias, V, folded, U = (torch.randn(*shape, dtype=dtype) for shape in shapes)
    for tensor in (x, V, folded, U):
        tensor.requires_grad_(True)
    return x, weight, bias, V, folded, U


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, V: Tensor, folded: Tensor, U: Tensor) -> Tensor:
    return add_low_rank_update(nn.functional.linear(x, weight, bias), low_rank_input(x, V), folded, U)


def _adapted(base: nn.Module | None = None, **settings: object) -> tuple[PeftModel, Linear]:
    torch.manual_seed(0)
    model = adapt(nn.Sequential(base or nn.Linear(IN, OUT)), target_modules=["0"], r=RANK, **settings)
    disturb_(model)
    (layer,) = layers_of(model)
    assert isinstance(layer, Linear)
    return model, layer


def _fuses(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> bool:
    """Whether `run` goes through the fused step."""
    used = []

    def recorded(*args: Tensor) -> Tensor:
        used.append(True)
        return fused_linear(*args)

    monkeypatch.setattr("deep_lora.linear.fused_linear", recorded)
    run()
    return bool(used)


# ---- values and derivatives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [(), (3, 5), (0,), (4,)], ids=["all", "bases frozen", "input frozen", "core frozen"])
def test_first_and_second_derivatives_are_exact(frozen: tuple[int, ...]) -> None:
    arguments = _arguments()
    for index in frozen:
        arguments[index].requires_grad_(False)
    assert torch.autograd.gradcheck(FusedLinear.apply, arguments)
    assert torch.autograd.gradgradcheck(FusedLinear.apply, arguments)


@pytest.mark.parametrize("rank", [RANK, 20])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_fused_step_equals_plain_autograd(with_bias: bool, rank: int) -> None:
    results = []
    for function in (fused_linear, _plain):
        x, weight, bias, V, folded, U = _arguments(rank=rank)
        y = function(x, weight, bias if with_bias else None, V, folded, U)
        y.square().sum().backward()
        results.append([y.detach(), *(tensor.grad for tensor in (x, V, folded, U))])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


def test_a_gradient_penalty_has_the_derivatives_of_plain_autograd() -> None:
    results = []
    for function in (fused_linear, _plain):
        x, weight, bias, V, folded, U = _arguments()
        (grad,) = torch.autograd.grad(function(x, weight, bias, V, folded, U).pow(3).sum(), x, create_graph=True)
        grad.square().sum().backward()
        results.append([tensor.grad for tensor in (V, folded, U)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(IN,), (3, IN), (2, 3, IN), (0, IN)])
def test_any_number_of_leading_dimensions_is_kept(shape: tuple[int, ...]) -> None:
    _, weight, bias, V, folded, U = _arguments()
    x = torch.randn(*shape, dtype=torch.float64)
    y = fused_linear(x, weight, bias, V, folded, U)
    assert y.shape == (*shape[:-1], OUT)
    torch.testing.assert_close(y, x @ (weight + U @ folded @ V.mT).mT + bias)


def test_a_float32_update_of_a_bf16_layer_is_computed_in_float32() -> None:
    x, weight, bias, V, folded, U = _arguments(torch.float32, tokens=64)
    low = [tensor.detach().bfloat16() for tensor in (x, weight, bias)]
    low[0].requires_grad_(True)
    y = fused_linear(*low, V, folded, U)
    assert y.dtype == torch.bfloat16
    y.square().sum().backward()
    assert low[0].grad.dtype == torch.bfloat16 and V.grad.dtype == folded.grad.dtype == U.grad.dtype == torch.float32
    update = (low[0].float() @ V @ folded.mT @ U.mT).detach()
    expected = nn.functional.linear(*low).float() + update
    torch.testing.assert_close(y.float(), expected, rtol=2**-7, atol=1e-3)  # one rounding to bf16 after the sum
    upstream, middle = (2 * y.float()).detach().bfloat16().float(), (low[0].float() @ V @ folded.mT).detach()
    torch.testing.assert_close(U.grad, upstream.mT @ middle, rtol=1e-4, atol=1e-4)


def test_autocast_computes_in_its_own_dtype_like_plain_autograd() -> None:
    results = []
    for function in (fused_linear, _plain):
        arguments = _arguments(torch.float32, tokens=32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = function(*arguments)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        results.append([y.float().detach(), *(arguments[index].grad for index in (0, 3, 4, 5))])
    for ours, reference in zip(*results, strict=True):
        assert ours.dtype == reference.dtype
        assert (ours - reference).norm() <= 2**-5 * reference.norm()  # a few roundings of 2^-9, in another order


# ---- what is kept for the backward pass ------------------------------------------------------------------------------


def _saved_bytes(run: Callable[[], Tensor], *known: Tensor) -> int:
    """Bytes of all storages that autograd keeps, but for the known ones."""
    ignored = {tensor.untyped_storage().data_ptr() for tensor in known}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    assert output.requires_grad
    return sum(saved.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_frozen_bases_a_layer_keeps_only_tokens_times_rank(dtype: torch.dtype) -> None:
    tokens = 512
    model, layer = _adapted(nn.Linear(64, 96).to(dtype), gamma=0.0)
    x = torch.randn(tokens, 64, dtype=dtype, requires_grad=True)
    cores = layer.deep_lora_core["default"]
    kept = _saved_bytes(lambda: model(x), *layer.parameters(), *model.buffers())
    small = 8 * cores.numel() * cores.element_size()  # prefixes of the chain, r x r
    assert tokens * RANK * cores.element_size() <= kept <= tokens * RANK * cores.element_size() + small


def test_with_trained_bases_the_input_is_kept_once() -> None:
    model, layer = _adapted(nn.Linear(64, 96).bfloat16())
    assert layer.deep_lora_V["default"].dtype == torch.float32
    x = torch.randn(512, 64, dtype=torch.bfloat16, requires_grad=True)
    kept = _saved_bytes(lambda: model(x), *layer.parameters(), *model.buffers(), x)
    assert kept < 512 * RANK * 4 + 8 * layer.deep_lora_core["default"].numel() * 4  # not even a float32 copy of it


# ---- where it is used, and where not ---------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [nn.Linear(IN, OUT), nn.Linear(IN, OUT, bias=False), Conv1D(OUT, IN)])
def test_plain_linear_layers_are_fused(base: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    model, layer = _adapted(base)
    x = torch.randn(3, 4, IN)
    expected = layer.base_layer(x) + x @ (
        layer.get_delta_weight("default").mT if isinstance(base, nn.Linear) else layer.get_delta_weight("default")
    )
    outputs: list[Tensor] = []
    assert _fuses(monkeypatch, lambda: outputs.append(model(x)))
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
    model, layer = _adapted(base)
    x = torch.randn(3, IN)
    outputs: list[Tensor] = []
    assert not _fuses(monkeypatch, lambda: outputs.append(model(x)))
    expected = layer.base_layer(x) + x @ layer.get_delta_weight("default").mT
    torch.testing.assert_close(outputs[0], expected)
    plain = nn.functional.linear(x, layer.get_base_layer().weight, layer.get_base_layer().bias)
    torch.testing.assert_close(layer.base_layer(x), 2 * plain)


def test_a_trained_bias_gets_its_gradient() -> None:
    model, layer = _adapted(bias="all")
    model(torch.randn(3, IN)).sum().backward()
    torch.testing.assert_close(layer.get_base_layer().bias.grad, torch.full((OUT,), 3.0))


def test_dropout_while_training_is_not_fused_but_evaluation_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = _adapted(deep_lora_dropout=0.5)
    x = torch.randn(3, IN)
    assert not _fuses(monkeypatch, lambda: model.train()(x))
    assert _fuses(monkeypatch, lambda: model.eval()(x))


def test_compilers_tracers_and_transforms_see_plain_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layer = _adapted()
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
        assert not _fuses(monkeypatch, run), run.__name__


def test_per_sample_gradients_work() -> None:
    model, layer = _adapted()
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
        model, layer = _adapted()
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
    model, layer = _adapted()
    model.add_adapter("second", model.peft_config["default"])
    disturb_(model)
    model.base_model.set_adapter(["default", "second"])
    x = torch.randn(3, IN)
    outputs: list[Tensor] = []
    assert _fuses(monkeypatch, lambda: outputs.append(model(x)))
    update = layer.get_delta_weight("default") + layer.get_delta_weight("second")
    torch.testing.assert_close(outputs[0], layer.base_layer(x) + x @ update.mT)
    outputs[0].square().sum().backward()
    assert all(p.grad is not None for name, p in layer.named_parameters() if "deep_lora" in name)


def test_no_active_adapter_is_the_base_layer_alone() -> None:
    model, layer = _adapted()
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
