"""Trainers that cast the trained parameters alone to half precision, as TRL does on quantised weights."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from tests.models import Nest, adapt, adapter_tensors, bert_classifier, disturb_, ids, layers_of

DTYPES = [torch.bfloat16, torch.float16]
TARGETS = {"target_modules": ["value", "dense", "word_embeddings"], "r": 4}
GAMMAS = [0.0, 1.0]  # with 0, U and V are frozen, and so they keep their float32


def _cast_trained_(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(ids()).logits


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [{}, {"init_scale": 1e-3}, {"max_update_norm": 0.4}, {"depth": 5}], ids=str)
def test_a_fresh_adapter_remains_an_identity(settings: dict, dtype: torch.dtype, gamma: float, tmp_path) -> None:
    base = bert_classifier().eval()
    expected = _logits(base)
    model = _cast_trained_(adapt(copy.deepcopy(base), gamma=gamma, **TARGETS, **settings), dtype).eval()
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


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_trains_merges_and_is_saved_with_what_it_has_learned(dtype: torch.dtype, gamma: float, tmp_path) -> None:
    base = bert_classifier().eval()
    model = _cast_trained_(adapt(copy.deepcopy(base), gamma=gamma, **TARGETS), dtype)
    before = {name: tensor.clone() for name, tensor in adapter_tensors(model).items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(5):  # steps by the sign of the gradient, which no precision hides
        model.zero_grad()
        model(input_ids=ids(), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        with torch.no_grad():
            for parameter in trained:
                parameter.sub_(0.03 * parameter.grad.sign())
    moved = {name for name, tensor in adapter_tensors(model).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if gamma or "core" in name}
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
    nest = adapt(Nest(), r=2, target_modules=[], target_parameters=["moe.matrix", "moe.experts"], gamma=0.0)
    convolution = adapt(nn.Sequential(nn.Conv2d(4, 6, 3)), r=2, target_modules=["0"], gamma=0.0)
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
