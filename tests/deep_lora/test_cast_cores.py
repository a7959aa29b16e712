"""Trainers that cast the trained parameters alone to half precision, as TRL does on quantized weights."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from deep_lora import cast_adapter_
from tests.models import Nest, adapt, adapter_tensors, bases_of, bert_classifier, disturb_, ids, layers_of

DTYPES = [torch.bfloat16, torch.float16]
TARGETS = {"target_modules": ["value", "dense", "word_embeddings"], "r": 4, "modules_to_save": []}  # a frozen head
BEFORE = {"deep_lora_version": 2}  # when cores held their start
FROZEN = [True, False]  # subspaces that are frozen keep their float32


def _cast_trained_(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(ids()).logits


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [{}, {"init_scale": 1e-3}, {"depth": 5}, BEFORE], ids=str)
def test_a_fresh_adapter_remains_an_identity(settings: dict, dtype: torch.dtype, frozen: bool, tmp_path) -> None:
    base = bert_classifier().eval()
    expected = _logits(base)
    model = _cast_trained_(adapt(copy.deepcopy(base), freeze_subspaces=frozen, **TARGETS, **settings), dtype).eval()
    layers = layers_of(model)
    assert {layer.deep_lora_core["default"].dtype for layer in layers} == {dtype}
    assert all(not layer.get_delta_weight("default").any() for layer in layers)
    assert all(layer.at_start("default") for layer in layers)
    assert torch.equal(_logits(model), expected)
    model.save_pretrained(tmp_path)  # and so does the file, in the float32 in which PEFT loads it
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert layers_of(loaded)[0].deep_lora_core["default"].dtype == torch.float32
    assert all(not layer.get_delta_weight("default").any() for layer in layers_of(loaded))
    assert torch.equal(_logits(loaded), expected)


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_trains_merges_and_is_saved_with_what_it_has_learned(dtype: torch.dtype, frozen: bool, tmp_path) -> None:
    base = bert_classifier().eval()
    model = _cast_trained_(adapt(copy.deepcopy(base), freeze_subspaces=frozen, **TARGETS), dtype)
    before = {name: tensor.clone() for name, tensor in adapter_tensors(model).items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(5):  # steps by the sign of the gradient, which no precision hides
        model.zero_grad()
        model(input_ids=ids(), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        with torch.no_grad():
            for parameter in trained:
                parameter.sub_(0.015 * parameter.grad.sign())
    moved = {name for name, tensor in adapter_tensors(model).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if not frozen or "core" in name}
    deltas = [layer.get_delta_weight("default").float() for layer in layers_of(model)]
    learned = _logits(model.eval())
    assert not torch.allclose(learned, _logits(base), atol=0.02)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    tolerance = 4 * torch.finfo(dtype).eps  # of factors that are multiplied in half precision; the update itself:
    for layer, delta in zip(layers_of(loaded), deltas, strict=True):
        error = layer.get_delta_weight("default") - delta
        assert error.norm() <= tolerance * delta.norm()
    assert torch.allclose(_logits(loaded), learned, atol=tolerance)
    assert torch.allclose(_logits(model.merge_and_unload()), learned, atol=tolerance)


def test_bare_parameters_and_convolutions_too() -> None:
    nest = adapt(Nest(), r=2, target_modules=[], target_parameters=["moe.matrix", "moe.experts"], freeze_subspaces=True)
    convolution = adapt(nn.Sequential(nn.Conv2d(4, 6, 3)), r=2, target_modules=["0"], freeze_subspaces=True)
    for model, x in ((nest, torch.randn(2, 8)), (convolution, torch.randn(2, 4, 7, 7))):
        with model.disable_adapter():
            expected = model(x)
        _cast_trained_(model, torch.bfloat16)
        assert torch.equal(model(x), expected)
        disturb_(model)
        model(x).sum().backward()
        for layer in layers_of(model):
            core = layer.deep_lora_core["default"]
            assert core.grad.dtype == torch.bfloat16 and core.grad.any()


@pytest.mark.parametrize(("rank", "settings"), [(4, {}), (4, BEFORE), (64, BEFORE)])
@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_adapter_that_is_cast_back_is_as_it_was_and_can_take_small_steps(rank, settings, tied) -> None:
    base = _tied() if tied else bert_classifier()
    targets = {"target_modules": ["wte", "c_attn"], "ensure_weight_tying": True} if tied else TARGETS
    model = adapt(base, **{**targets, **settings, "r": rank})
    before = {name: tensor.clone() for name, tensor in adapter_tensors(model).items() if "core" in name}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _cast_trained_(model, torch.bfloat16)
    cast_adapter_(model)
    after = adapter_tensors(model)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(not layer.get_delta_weight("default").any() for layer in layers_of(model))
    assert [id(p) for p in model.parameters() if p.requires_grad] == [id(p) for p in parameters]
    with torch.no_grad():
        for layer in layers_of(model):
            layer.deep_lora_core["default"].diagonal(dim1=-2, dim2=-1).add_(1e-3)
    assert all(not layer.at_start("default") for layer in layers_of(model))


def _tied() -> nn.Module:
    config = GPT2Config(vocab_size=41, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    return GPT2LMHeadModel(config)


def test_a_trained_adapter_keeps_what_it_has_learned_and_its_rounding() -> None:
    model = adapt(bert_classifier(), **TARGETS)
    disturb_(model)
    _cast_trained_(model, torch.bfloat16)
    rounded = {name: tensor.float() for name, tensor in adapter_tensors(model).items()}
    cast_adapter_(model)
    assert all(torch.equal(tensor, rounded[name]) for name, tensor in adapter_tensors(model).items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.complex64])
def test_only_real_floating_point_types_of_sixteen_bits_and_more(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"`dtype` must be float32, bfloat16, float16 or float64, got {dtype}"):
        cast_adapter_(adapt(bert_classifier(), **TARGETS), dtype)


def test_an_unknown_adapter_is_an_error_that_names_those_there() -> None:
    with pytest.raises(ValueError, match=r"no Deep LoRA adapter called 'other' \(adapters: \['default'\]\)"):
        cast_adapter_(adapt(bert_classifier(), **TARGETS), adapter_name="other")
    with pytest.raises(ValueError, match=r"no Deep LoRA adapter called 'default' \(adapters: \[\]\)"):
        cast_adapter_(nn.Linear(2, 2))


def test_half_precision_rounds_what_cores_have_learned_and_not_its_sum_with_the_start() -> None:
    """A step of 1e-4 is taken, and the update that it makes is right to the precision of bfloat16."""
    model = adapt(nn.Sequential(nn.Linear(12, 12)), r=4, target_modules=["0"])
    _cast_trained_(model, torch.bfloat16)
    layer = layers_of(model)[0]
    core, kappa = layer.deep_lora_core["default"], layer.core_scale["default"]
    with torch.no_grad():
        core.diagonal(dim1=-2, dim2=-1).add_(1e-4)
    U, V = (basis.double() for basis in bases_of(layer))
    grown = 0.3 + kappa * core[0, 0, 0].double().item()
    error = layer.get_delta_weight("default").double() - (grown**3 - 0.3**3) * U @ V.mT
    assert error.norm() < 0.01 * (grown**3 - 0.3**3) * (U @ V.mT).norm()


def test_the_steps_that_half_precision_loses() -> None:
    """The figures of docs/faq.md."""
    layer = layers_of(adapt(nn.Sequential(nn.Linear(768, 768)), r=8, target_modules=["0"]))[0]
    for basis in (layer.deep_lora_U["default"], layer.deep_lora_V["default"]):
        assert basis.square().mean().sqrt().item() == pytest.approx(0.0045, rel=0.01)
    number = torch.tensor(0.0045).bfloat16()
    assert number + 1.5e-5 == number == number - 1.5e-5 and number + 2e-5 != number
