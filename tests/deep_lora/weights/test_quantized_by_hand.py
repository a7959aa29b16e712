"""Layers that torchao quantized without transformers: they train and are exported, and only merging is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from deep_lora import DeepLoraConfig, to_lora
from tests.models import layers_of


class Packed:
    """PEFT's backend of torchao, as far as it concerns us: made only if somebody says how to quantize again."""

    backend_name, layer_type, supports_merge = "torchao", "linear", True

    def __init__(self, get_apply_tensor_subclass: Any) -> None:
        self.get_apply_tensor_subclass = get_apply_tensor_subclass

    def get_base_weight(self, base: nn.Module) -> Tensor:
        return base.weight

    def set_base_weight(self, layer: Any, weight: Tensor) -> None:
        layer.get_base_layer().weight.data = weight


def resolve(base: nn.Module, get_apply_tensor_subclass: Any = None) -> Packed:
    if get_apply_tensor_subclass is None:
        raise ValueError("torchao quantized layer detected but 'get_apply_tensor_subclass' was not provided.")
    return Packed(get_apply_tensor_subclass)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr("deep_lora.weights.quantized.resolve_quantization_backend", resolve)
    torch.manual_seed(0)
    config = DeepLoraConfig(r=2, target_modules=["0", "1"], init_weights=False)
    return get_peft_model(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), config)


def test_they_train_and_are_exported(model: nn.Module) -> None:
    model(torch.ones(3, 6)).sum().backward()
    assert all(layer.deep_lora_core["default"].grad.abs().sum() > 0 for layer in layers_of(model))
    assert len(to_lora(model)[1]) == 4


@pytest.mark.parametrize("way", ["merge_adapter", "merge_and_unload", "merge"])
def test_a_merge_is_refused_and_changes_nothing(model: nn.Module, way: str) -> None:
    before = model(torch.ones(3, 6))
    with pytest.raises(ValueError, match="Cannot merge adapters into a model quantized with torchao"):
        getattr(model if way != "merge" else layers_of(model)[0], way)()
    assert torch.equal(model(torch.ones(3, 6)), before)


def test_a_base_that_says_how_it_was_quantized_can_be_merged(model: nn.Module) -> None:
    base = nn.Sequential(nn.Linear(6, 6))
    base.hf_quantizer = type("Quantizer", (), {})()  # as transformers leaves it on its models
    base.hf_quantizer.quantization_config = type("Config", (), {"get_apply_tensor_subclass": lambda self: None})()
    known = get_peft_model(base, DeepLoraConfig(r=2, target_modules=["0"], init_weights=False))
    wanted = known(torch.ones(3, 6))
    torch.testing.assert_close(known.merge_and_unload()(torch.ones(3, 6)), wanted)
