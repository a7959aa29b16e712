"""`nn.MultiheadAttention` as a target: both of its matrices are adapted, in every way in which it is called."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from deep_lora import DeepLoraConfig, adapted_layers, save_as_lora
from tests.models import adapt, adapter_tensors, disturb_

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Calls the attention by names or by positions, with weights, masks and another source."""

    def __init__(self, **settings: bool) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(16, 4, **settings), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        own, weights = self.attention(x, x, x, need_weights=True)
        mask = torch.ones(x.shape[1] if self.attention.batch_first else x.shape[0], own.shape[-1])
        mask = torch.triu(torch.full((len(mask), len(mask)), float("-inf")), 1)
        crossed = self.attention(query=x, key=x.flip(0), value=x.flip(1), attn_mask=mask, need_weights=False)[0]
        return self.head(own + crossed) + weights.mean()


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(16, 4, 32, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x.flip(0))


CASES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "attention": (Attention, ["attention"]),
    "attention and head": (lambda: Attention(batch_first=True, bias=False), ["attention", "head"]),
    "attention and its projection": (Attention, ["attention", "out_proj"]),
    "encoder": (encoder, ["self_attn"]),
    "whole encoder": (encoder, ["self_attn", "linear1", "linear2"]),
    "decoder": (Decoder, ["self_attn", "multihead_attn", "linear1"]),
}


def example(name: str) -> tuple[nn.Module, PeftModel]:
    torch.manual_seed(0)
    build, targets = CASES[name]
    base = build().eval()
    model = adapt(copy.deepcopy(base), r=2, target_modules=targets)
    torch.testing.assert_close(model(X), base(X))
    disturb_(model, scale=0.6)
    return base, model


@pytest.mark.parametrize("name", CASES)
def test_it_is_trained_evaluated_and_merged_as_a_whole(name: str) -> None:
    base, model = example(name)
    trained = model(X)
    trained.square().sum().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in adapter_tensors(model).values())
    with torch.no_grad():
        torch.testing.assert_close(model(X), trained, atol=1e-5, rtol=1e-4)
        assert (trained - base(X)).abs().max() > 1e-2
        with model.disable_adapter():
            torch.testing.assert_close(model(X), base(X), atol=1e-5, rtol=1e-4)
        model.merge_adapter(safe_merge=True)
        torch.testing.assert_close(model(X), trained, atol=1e-5, rtol=1e-4)
        with model.disable_adapter():
            torch.testing.assert_close(model(X), base(X), atol=1e-5, rtol=1e-4)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(X), trained, atol=1e-5, rtol=1e-4)
    assert not adapted_layers(merged) and merged.state_dict().keys() == base.state_dict().keys()


@pytest.mark.parametrize("name", CASES)
def test_it_is_saved_loaded_and_taken_off_and_not_exported_wrongly(name: str, tmp_path: Path) -> None:
    base, model = example(name)
    wanted = model(X)
    model.save_pretrained(tmp_path / "own")
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "own").eval()
    torch.testing.assert_close(loaded(X), wanted)
    with pytest.raises(ValueError, match="MultiheadAttention with an `out_proj` whose update is added twice"):
        save_as_lora(tmp_path / "lora", model)
    torch.testing.assert_close(model.unload()(X), base(X))


def test_peft_adds_the_update_of_the_output_projection_twice() -> None:
    """Once this fails, the attention can be exported."""
    torch.manual_seed(0)
    layer = get_peft_model(
        Attention(), LoraConfig(r=2, target_modules=["attention"], init_lora_weights=False)
    ).base_model.model.attention  # fmt: skip
    projection = layer.base_layer.out_proj
    before, update = projection.weight.clone(), projection.get_delta_weight("default")
    layer.merge()
    torch.testing.assert_close(projection.weight - before, 2 * update, atol=1e-6, rtol=1e-4)


def test_the_output_projection_alone_is_exported_with_a_warning(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Attention().eval()
    model = adapt(copy.deepcopy(base), r=2, target_modules=["out_proj"])
    disturb_(model, scale=0.6)
    with pytest.warns(UserWarning, match="PEFT's LoRA has an effect there only after `merge_and_unload`"):
        save_as_lora(tmp_path, model)
    lora = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(lora.merge_and_unload()(X), model(X), atol=1e-5, rtol=1e-4)


def test_adapters_are_added_switched_and_deleted() -> None:
    base, model = example("encoder")
    first = model(X)
    model.add_adapter("second", DeepLoraConfig(r=4, target_modules=["self_attn"], init_weights=False))
    model.set_adapter("second")
    second = model(X)
    assert not torch.allclose(first, second, atol=1e-3)
    model.set_adapter("default")
    torch.testing.assert_close(model(X), first)
    model.delete_adapter("default")
    torch.testing.assert_close(model(X), second)
    assert {layer.r["second"] for layer in adapted_layers(model).values()} == {4}


def test_what_it_cannot_do_is_an_error() -> None:
    other = nn.ModuleDict({"attention": nn.MultiheadAttention(16, 4, kdim=8)})
    with pytest.raises(ValueError, match="whose keys or values differ in width from its queries, so it has no"):
        get_peft_model(other, DeepLoraConfig(r=2, target_modules=["attention"]))
    with pytest.raises(TypeError, match="MultiheadAttention does not support mixed adapter batches, since its"):
        example("attention")[1](X, adapter_names=["default", "__base__"])


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = adapt(Attention(), r=2, target_modules=["attention"], deep_lora_dropout=0.5)
    disturb_(model)
    assert torch.equal(model(X), model(X))
    mean = torch.stack([model.train()(X).detach() for _ in range(400)]).mean(0)
    assert not torch.equal(model(X), model(X))
    torch.testing.assert_close(mean, model.eval()(X), atol=0.05, rtol=0)
    assert (model.train()(X) - model.eval()(X)).abs().max() > 1e-3


def test_matrices_of_their_own_size_are_reached_as_parameters() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, kdim=8, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x[..., :8], x)[0]

    torch.manual_seed(0)
    names = [f"attention.{letter}_proj_weight" for letter in "qkv"]
    model = adapt(Crossed(), r=2, target_modules=["out_proj"], target_parameters=names)
    disturb_(model, scale=0.6)
    wanted = model(X)
    wanted.sum().backward()
    assert all(tensor.grad is not None for tensor in adapter_tensors(model).values())
    torch.testing.assert_close(model.merge_and_unload()(X), wanted, atol=1e-5, rtol=1e-4)
