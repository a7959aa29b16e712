"""The fused step equals the plain one in value and in all derivatives, and keeps little for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from deep_lora.layers.fused import FusedLinear, fused_linear
from tests.deep_lora.layers.fused_cases import IN, OUT, RANK, adapted_linear, arguments_of_a_step, plain_step

# ---- values and derivatives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [(), (3, 5), (0,), (4,)], ids=["all", "bases frozen", "input frozen", "core frozen"])
def test_first_and_second_derivatives_are_exact(frozen: tuple[int, ...]) -> None:
    arguments = arguments_of_a_step()
    for index in frozen:
        arguments[index].requires_grad_(False)
    assert torch.autograd.gradcheck(FusedLinear.apply, arguments)
    assert torch.autograd.gradgradcheck(FusedLinear.apply, arguments)


@pytest.mark.parametrize("rank", [RANK, 20])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_fused_step_equals_plain_autograd(with_bias: bool, rank: int) -> None:
    results = []
    for function in (fused_linear, plain_step):
        x, weight, bias, V, folded, U = arguments_of_a_step(rank=rank)
        y = function(x, weight, bias if with_bias else None, V, folded, U)
        y.square().sum().backward()
        results.append([y.detach(), *(tensor.grad for tensor in (x, V, folded, U))])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


def test_a_gradient_penalty_has_the_derivatives_of_plain_autograd() -> None:
    results = []
    for function in (fused_linear, plain_step):
        x, weight, bias, V, folded, U = arguments_of_a_step()
        (grad,) = torch.autograd.grad(function(x, weight, bias, V, folded, U).pow(3).sum(), x, create_graph=True)
        grad.square().sum().backward()
        results.append([tensor.grad for tensor in (V, folded, U)])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(IN,), (3, IN), (2, 3, IN), (0, IN)])
def test_any_number_of_leading_dimensions_is_kept(shape: tuple[int, ...]) -> None:
    _, weight, bias, V, folded, U = arguments_of_a_step()
    x = torch.randn(*shape, dtype=torch.float64)
    y = fused_linear(x, weight, bias, V, folded, U)
    assert y.shape == (*shape[:-1], OUT)
    torch.testing.assert_close(y, x @ (weight + U @ folded @ V.mT).mT + bias)


def test_a_float32_update_of_a_bf16_layer_is_computed_in_float32() -> None:
    x, weight, bias, V, folded, U = arguments_of_a_step(torch.float32, tokens=64)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_its_own_dtype_like_plain_autograd(dtype: torch.dtype) -> None:
    results = []
    for function in (fused_linear, plain_step):
        arguments = arguments_of_a_step(torch.float32, tokens=32)
        with torch.autocast("cpu", dtype=dtype):
            y = function(*arguments)
        assert y.dtype == dtype
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_with_frozen_bases_a_layer_keeps_only_tokens_times_rank(dtype: torch.dtype) -> None:
    tokens = 512
    model, layer = adapted_linear(nn.Linear(64, 96).to(dtype), freeze_subspaces=True)
    x = torch.randn(tokens, 64, dtype=dtype, requires_grad=True)
    cores = layer.deep_lora_core["default"]
    kept = _saved_bytes(lambda: model(x), *layer.parameters(), *model.buffers())
    small = 8 * cores.numel() * cores.element_size()  # prefixes of the chain, r x r
    assert tokens * RANK * cores.element_size() <= kept <= tokens * RANK * cores.element_size() + small


def test_with_trained_bases_the_input_is_kept_once() -> None:
    model, layer = adapted_linear(nn.Linear(64, 96).bfloat16())
    assert layer.deep_lora_V["default"].dtype == torch.float32
    x = torch.randn(512, 64, dtype=torch.bfloat16, requires_grad=True)
    kept = _saved_bytes(lambda: model(x), *layer.parameters(), *model.buffers(), x)
    assert kept < 512 * RANK * 4 + 8 * layer.deep_lora_core["default"].numel() * 4  # not even a float32 copy of it
