"""Deep LoRA on an accelerator: the same values, derivatives and subspaces as on the CPU.

Every test runs on the CPU too, where most of these comparisons are easy; what matters there is that the code runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from deep_lora import initialize_subspaces_
from deep_lora.layers.fused import fused_linear
from tests.deep_lora.layers.fused_cases import arguments_of_a_step, plain_step
from tests.models import Mixed, adapt, adapter_tensors, bases_of, bert_classifier, disturb_, ids, layers_of
from tests.reference.first_gradient import product_of_bases, weight_gradient

EPS64 = torch.finfo(torch.float64).eps
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
on_every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])


def mixed_model(device: str, **settings: object) -> PeftModel:
    """The same disturbed adapters on an embedding and linear layers, in float64, on any device."""
    torch.manual_seed(0)
    targets = {"target_modules": ["embedding", "square", "tall", "wide"], "r": 4}
    model = adapt(Mixed().double(), autocast_adapter_dtype=False, **targets, **settings).double()
    disturb_(model)
    return model.to(device)


def results_of_a_step(
    function: Callable[..., Tensor], device: str, dtype: torch.dtype, autocast: torch.dtype | None = None
) -> list[Tensor]:
    """The output of a fused or a plain step, and the gradients of x, V, the folded core and U."""
    arguments = [tensor.detach().to(device) for tensor in arguments_of_a_step(dtype, tokens=32)]
    trained = [arguments[index].requires_grad_() for index in (0, 3, 4, 5)]
    with torch.autocast(torch.device(device).type, dtype=autocast, enabled=autocast is not None):
        y = function(*arguments)
    assert y.device.type == device and y.dtype == (autocast or dtype)
    (y if dtype == torch.float64 else y.float()).square().sum().backward()
    gradients = [tensor.grad for tensor in trained]
    assert all(gradient is not None and gradient.dtype == dtype for gradient in gradients)
    return [y.detach(), *gradients]


# ---- the fused step --------------------------------------------------------------------------------------------------


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fused_step_equals_plain_autograd(device: str, dtype: torch.dtype) -> None:
    ours, plain = (results_of_a_step(function, device, dtype) for function in (fused_linear, plain_step))
    for one, other in zip(ours, plain, strict=True):
        assert (one - other).norm() <= 100 * torch.finfo(dtype).eps * other.norm()  # sums have at most 32 terms


@on_every_device
def test_the_fused_step_gives_the_values_and_derivatives_of_the_cpu(device: str) -> None:
    ours = results_of_a_step(fused_linear, device, torch.float64)
    for one, other in zip(ours, results_of_a_step(plain_step, "cpu", torch.float64), strict=True):
        assert (one.cpu() - other).norm() <= 100 * EPS64 * other.norm()


@on_every_device
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_under_autocast_the_fused_step_agrees_with_plain_autograd(device: str, autocast: torch.dtype) -> None:
    steps = (fused_linear, plain_step)
    ours, plain = (results_of_a_step(function, device, torch.float32, autocast) for function in steps)
    for one, other in zip(ours, plain, strict=True):
        one, other = one.float(), other.float()
        assert (one - other).norm() <= 2**-5 * other.norm()  # a few roundings of 2^-9, in another order


# ---- whole models ----------------------------------------------------------------------------------------------------


@on_every_device
def test_a_model_has_the_outputs_and_gradients_of_the_cpu(device: str) -> None:
    outputs, gradients = [], []
    for place in ("cpu", device):
        model = mixed_model(place)
        output = model(ids().to(place))
        output.square().sum().backward()
        outputs.append(output.detach().cpu())
        gradients.append({name: tensor.grad.cpu() for name, tensor in adapter_tensors(model).items()})
    # three layers of products with at most 12 terms, each a rounding of eps at the scale of the result
    assert (outputs[0] - outputs[1]).norm() <= 1e3 * EPS64 * outputs[0].norm()
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() <= 1e4 * EPS64 * (1 + gradient.norm()), name


@on_every_device
def test_a_merged_model_has_the_outputs_of_the_separate_one(device: str) -> None:
    model, batch = mixed_model(device), ids().to(device)
    with torch.no_grad():
        separate = model(batch)
        merged = model.merge_and_unload()(batch)
    assert merged.device.type == device
    assert (merged - separate).norm() <= 1e3 * EPS64 * separate.norm()


@on_every_device
def test_an_adapter_that_is_saved_on_the_device_loads_on_the_cpu(device: str, tmp_path) -> None:
    model = mixed_model(device)
    model.save_pretrained(str(tmp_path))
    base = mixed_model("cpu").unload()
    loaded = PeftModel.from_pretrained(base, str(tmp_path), autocast_adapter_dtype=False, torch_device="cpu").eval()
    ours, theirs = adapter_tensors(model), adapter_tensors(loaded)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor.detach().cpu(), theirs[name]) for name, tensor in ours.items())
    with torch.no_grad():
        expected = model(ids().to(device)).cpu()
        assert (loaded(ids()) - expected).norm() <= 1e3 * EPS64 * expected.norm()


# ---- precisions ------------------------------------------------------------------------------------------------------


@on_every_device
@pytest.mark.parametrize(
    ("dtype", "float32_adapters", "autocast"),
    [
        (torch.bfloat16, False, False),
        (torch.bfloat16, True, False),
        (torch.float32, True, True),
    ],
    ids=["bf16", "bf16 with float32 adapters", "autocast"],
)
def test_every_precision_trains(device: str, dtype: torch.dtype, float32_adapters: bool, autocast: bool) -> None:
    torch.manual_seed(0)
    base = bert_classifier().to(device=device, dtype=dtype)
    targets = {"target_modules": ["query", "value", "dense", "word_embeddings"], "task_type": "SEQ_CLS"}
    model = adapt(base, r=4, autocast_adapter_dtype=float32_adapters, **targets)
    wanted = torch.float32 if float32_adapters else dtype
    assert {(p.dtype, p.device.type) for p in adapter_tensors(model).values()} == {(wanted, device)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2.5e-3)
    batch, labels = ids().to(device), torch.tensor([0, 1, 1, 0], device=device)
    losses = []
    for _ in range(30):
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=autocast):
            loss = model(input_ids=batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0] and all(loss == loss for loss in losses)


# ---- subspaces -------------------------------------------------------------------------------------------------------


def square_sum(output: Tensor) -> Tensor:
    return output.square().sum()


@on_every_device
@pytest.mark.parametrize("sides", ["both", "right"])
@pytest.mark.parametrize("exact_bytes", [0, 2**29], ids=["sketched", "exact"])
def test_subspaces_on_the_device_are_those_of_the_dense_gradient(device: str, sides: str, exact_bytes: int) -> None:
    torch.manual_seed(0)
    base, inputs, rank, seed = nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 3)), torch.randn(15, 24), 4, 11
    expected, tolerance = product_of_bases(weight_gradient(base, "0.weight", inputs, square_sum), rank, seed, sides)
    model = adapt(copy.deepcopy(base), target_modules=["0"], r=rank).to(device)
    batch = inputs.to(device)
    report = initialize_subspaces_(
        model, lambda: square_sum(model(batch)).backward(), seed=seed, sides=sides, exact_bytes=exact_bytes
    )
    assert report.initialized == ["base_model.model.0"]
    (layer,) = layers_of(model)
    U, V = bases_of(layer)
    assert U.device.type == V.device.type == device
    assert (U.cpu().double() @ V.cpu().double().mT - expected).norm().item() <= tolerance
    with torch.no_grad():
        assert torch.equal(model(batch), copy.deepcopy(base).to(device)(batch)), "a fresh adapter is an exact identity"
