"""Convolutions of one, two and three dimensions, and those that compute in a way of their own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from deep_lora import DeepLoraConfig, initialize_subspaces_, save_as_lora, to_lora
from tests.models import SamePadding, adapt, disturb_, layers_of


class Standardized(nn.Conv2d):
    """Normalizes its weight before use, as timm's `StdConv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1)
        weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        return F.conv2d(x, weight.reshape(self.weight.shape), self.bias, self.stride, self.padding)


class Causal(nn.Conv1d):
    """Pads on the left only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0)))


class OwnConvolution(nn.Conv3d):
    """Replaces the inner method of torch."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv3d(F.pad(x, (1, 0, 0, 1, 1, 1)), weight, bias, self.stride)


Base = Callable[[], nn.Module]
PLAIN: dict[str, tuple[Base, tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, dilation=2, stride=2), (4, 11)),
    "1d grouped": (lambda: nn.Conv1d(4, 6, 3, groups=2, padding="same", padding_mode="circular"), (4, 11)),
    "1d depthwise": (lambda: nn.Conv1d(2, 2, 4, groups=2, padding=3, bias=False), (2, 11)),
    "2d grouped": (lambda: nn.Conv2d(4, 6, (3, 2), groups=2, padding=(1, 0), padding_mode="reflect"), (4, 7, 6)),
    "3d": (lambda: nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), padding=1), (2, 4, 5, 6)),
    "3d grouped": (lambda: nn.Conv3d(4, 4, 2, groups=2, padding_mode="replicate", padding=1), (4, 3, 4, 5)),
    "1d weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3, groups=2), dim=2), (4, 11)
    ),
}  # fmt: skip
OWN: dict[str, tuple[Base, tuple[int, ...]]] = {
    "same padding": (lambda: SamePadding(4, 6, 3, stride=2), (4, 9, 9)),
    "standardized": (lambda: Standardized(4, 6, 3, padding=1), (4, 6, 7)),
    "causal": (lambda: Causal(4, 6, 3, groups=2, dilation=2), (4, 11)),
    "own inner method": (lambda: OwnConvolution(2, 4, (2, 2, 3)), (2, 4, 5, 6)),
}
CASES = PLAIN | OWN


def named(conv: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(conv=conv))


def example(name: str, **settings: float) -> tuple[PeftModel, Tensor]:
    torch.manual_seed(0)
    base, shape = CASES[name]
    model = adapt(named(base()), r=4, target_modules=["conv"], **settings)
    disturb_(model)
    return model, torch.randn(3, *shape)


@pytest.mark.parametrize("name", CASES)
def test_the_merged_layer_computes_the_same(name: str) -> None:
    model, x = example(name)
    wanted = model(x)
    with model.disable_adapter():
        plain = model(x)
    assert (wanted - plain).abs().max() > 1e-2
    if name != "1d weight norm":  # a parametrized weight cannot be written in place
        model.merge_adapter()
        torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-4)
        model.unmerge_adapter()
    torch.testing.assert_close(model(x[0]), wanted[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_each_sample_can_have_its_own_adapter(name: str) -> None:
    model, x = example(name)
    model.add_adapter("other", DeepLoraConfig(r=4, target_modules=["conv"], init_weights=False))
    mixed = model(x, adapter_names=["other", "__base__", "default"])
    for row, adapter in ((0, "other"), (2, "default")):
        model.set_adapter(adapter)
        torch.testing.assert_close(mixed[row], model(x)[row], atol=1e-5, rtol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(mixed[1], model(x)[1])


@pytest.mark.parametrize("name", CASES)
def test_its_gradient_operator_is_the_gradient_of_its_weight(name: str) -> None:
    model, x = example(name)
    (layer,) = layers_of(model)
    base = copy.deepcopy(layer.get_base_layer())
    if name == "1d weight norm":
        nn.utils.parametrize.remove_parametrizations(base, "weight")
    output = base(x)
    direction = torch.randn_like(output)
    base.weight.requires_grad_()
    (gradient,) = torch.autograd.grad(base(x), base.weight, direction)
    operator = layer.gradient_operator(x, direction)
    torch.testing.assert_close(
        operator.dense(torch.float32, torch.device("cpu")), gradient.flatten(1), atol=1e-4, rtol=1e-4
    )
    block = torch.randn(len(gradient), 3)
    torch.testing.assert_close(operator.apply_transpose(block), gradient.flatten(1).mT @ block, atol=1e-4, rtol=1e-4)
    block = torch.randn(gradient[0].numel(), 3)
    torch.testing.assert_close(operator.apply(block), gradient.flatten(1) @ block, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["1d", "3d", "same padding", "standardized"])
def test_subspaces_come_from_its_gradient_and_dropout_acts(name: str) -> None:
    torch.manual_seed(0)
    base, shape = CASES[name]
    model, x = adapt(named(base()), r=2, target_modules=["conv"], deep_lora_dropout=0.5), torch.randn(3, *shape)
    (layer,) = layers_of(model)
    drawn, plain = layer.deep_lora_V["default"].clone(), model(x)
    initialize_subspaces_(model, lambda: model(x).square().mean().backward())
    assert not torch.allclose(layer.deep_lora_V["default"], drawn, atol=1e-2)
    torch.testing.assert_close(model(x), plain)
    disturb_(model)
    model.train()
    assert not torch.equal(model(x), model(x))
    model(x).sum().backward()
    assert layer.deep_lora_core["default"].grad is not None


@pytest.mark.parametrize("name", ["1d", "3d", "same padding", "causal", "standardized"])
def test_what_lora_can_hold_is_exported_and_the_rest_is_refused(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    builds: dict[str, Base] = {
        "1d": lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2), "causal": lambda: Causal(4, 6, 3)
    }  # fmt: skip
    base = named(builds.get(name, CASES[name][0])())
    model, x = adapt(copy.deepcopy(base), r=4, target_modules=["conv"]), torch.randn(3, *CASES[name][1])
    disturb_(model)
    if name == "standardized":
        with pytest.raises(ValueError, match="a forward pass of its own that is not linear in the weight"):
            to_lora(model)
        return
    save_as_lora(tmp_path, model)
    torch.testing.assert_close(PeftModel.from_pretrained(base, tmp_path)(x), model(x), atol=1e-5, rtol=1e-4)


def test_a_parametrized_weight_of_a_layer_with_a_way_of_its_own_is_refused() -> None:
    base = nn.utils.parametrizations.weight_norm(Causal(4, 6, 3))
    with pytest.raises(ValueError, match="`weight` of a Causal is parametrized, so an adapter cannot give it another"):
        adapt(named(base), r=2, target_modules=["conv"])(torch.ones(1, 4, 9))


def test_views_that_fsdp_keeps_beside_the_parameter_do_not_hide_the_update() -> None:
    model, x = example("same padding")
    wanted = model(x)
    base = layers_of(model)[0].get_base_layer()
    vars(base)["weight"] = base.weight.detach()
    torch.testing.assert_close(model(x), wanted)
    assert vars(base)["weight"].shape == base.weight.shape


def test_models_read_what_an_adapted_layer_was_made_with() -> None:
    sizes = {"d_model": 8, "num_mel_bins": 4, "max_source_positions": 4, "encoder_layers": 1, "encoder_ffn_dim": 8}
    encoder = WhisperEncoder(WhisperConfig(**sizes, encoder_attention_heads=2)).eval()  # reads the strides
    plain = encoder(torch.ones(1, 4, 8)).last_hidden_state
    model = adapt(encoder, r=2, target_modules=["conv1", "conv2", "embed_positions"])
    torch.testing.assert_close(model(torch.ones(1, 4, 8)).last_hidden_state, plain)
    assert encoder.conv2.stride == (2,) and encoder.embed_positions.num_embeddings == 4
