"""Modules whose weight is read instead of being called: the update is in what is read, or a warning says so."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from peft import get_peft_model, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deep_lora import DeepLoraConfig
from tests.models import adapt, adapter_tensors, disturb_, layers_of, llama

IDS = torch.arange(1, 13).reshape(2, 6)


class Reader(nn.Module):
    """Reads the weights of `a`, `b.inner`, `table` and `kernel`, calls `c`, and asks for the dtype of `d`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.d = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.b = nn.ModuleDict({"inner": nn.Linear(6, 6)})
        self.table, self.kernel = nn.Embedding(6, 6), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = sum([y @ self.b.inner.weight.t() for y in (x, x)]) + F.linear(x, self.a.weight) @ self.table.weight
        x = x + F.linear(x, self.kernel.weight.squeeze(-1).squeeze(-1))
        return self.d(self.c(torch.tanh(x)).to(self.d.weight.dtype))


class Lookup(nn.Module):
    """Reads the weight of the layer that it is given."""

    def forward(self, x: Tensor, table: nn.Module) -> Tensor:
        return x @ table.weight.t()


class Giver(nn.Module):
    """Hands `table` to a module that reads its weight, over another one, and `bias` to a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.bias, self.called = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.lookup = Lookup()

    def _looked_up(self, x: Tensor, layer: nn.Module, bins: int) -> Tensor:
        return x + layer.weight[:, torch.arange(bins)]

    def _passed_on(self, x: Tensor, layer: nn.Module) -> Tensor:
        return self.lookup(x, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(self._looked_up(self._passed_on(x, self.table), self.bias, 6))


def layoutlm() -> nn.Module:
    """Looks the weights of its `rel_pos_bias` up without a gradient."""
    config = transformers.LayoutLMv3Config(
        vocab_size=41, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, coordinate_size=2, shape_size=4, visual_embed=False, rel_pos_bins=8,
        rel_2d_pos_bins=8, pad_token_id=0,
    )  # fmt: skip
    return transformers.LayoutLMv3Model(config)


def encoder(batch_first: bool = True, nested: bool = False, **settings: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=batch_first, **settings)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)


class Attention(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def wavlm() -> nn.Module:
    return transformers.WavLMModel(
        transformers.WavLMConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=(8, 8),
            conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
            hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, layerdrop=0.0, feat_proj_dropout=0.0,
        )
    )  # fmt: skip


def siglip() -> nn.Module:
    config = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=16, patch_size=8
    )
    return transformers.SiglipVisionModel(config)


def mamba() -> nn.Module:
    return transformers.MambaModel(
        transformers.MambaConfig(vocab_size=41, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=4)
    )


def mobilebert() -> nn.Module:
    config = transformers.MobileBertConfig(
        vocab_size=41, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
        embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16, max_position_embeddings=32,
    )  # fmt: skip
    return transformers.MobileBertForMaskedLM(config)


X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
CASES: dict[str, tuple[Any, Any, Any]] = {
    "reader": (Reader, torch.eye(6), ["a", "inner", "c", "d", "table", "kernel"]),
    "giver": (Giver, torch.eye(6), ["table", "bias", "called"]),
    "encoder": (encoder, X, ["linear1", "linear2", "out_proj"]),
    "encoder gelu": (lambda: encoder(norm_first=True, activation="gelu"), X, ["linear1", "linear2"]),
    "attention": (Attention, X, ["out_proj"]),
    "attention batch first": (lambda: Attention(batch_first=True), X, "all-linear"),
    "WavLM": (wavlm, torch.randn(2, 800, generator=torch.Generator().manual_seed(0)), "all-linear"),
    "SigLIP": (siglip, torch.linspace(-1, 1, 1536).reshape(2, 3, 16, 16), "all-linear"),
    "Mamba": (mamba, IDS, ["dt_proj", "in_proj", "x_proj"]),
    "MobileBERT": (mobilebert, IDS, ["dense", "query"]),
}


def numbers(output: Any) -> Tensor:
    for name in ("pooler_output", "last_hidden_state", "logits"):
        output = getattr(output, name, None) if getattr(output, name, None) is not None else output
    return output


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_holds_the_update_in_training_evaluation_and_merged(name: str) -> None:
    build, x, targets = CASES[name]
    torch.manual_seed(0)
    base = build().eval()
    plain = numbers(base(x)).detach()
    model = adapt(base, r=2, target_modules=targets)
    torch.testing.assert_close(numbers(model(x)), plain)
    disturb_(model, scale=0.6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no gradient reached")
        adapted = numbers(model(x))
        adapted.square().sum().backward()
    assert all(tensor.grad is not None for tensor in adapter_tensors(model).values())
    close = {"atol": 1e-5 * adapted.abs().max().item(), "rtol": 1e-4}
    with torch.no_grad():
        torch.testing.assert_close(numbers(model(x)), adapted, **close)
        with model.disable_adapter():
            torch.testing.assert_close(numbers(model(x)), plain, **close)
    for layer in layers_of(model):
        assert layer.get_delta_weight("default").abs().max() > 1e-4
    merged = numbers(model.merge_and_unload()(x))
    torch.testing.assert_close(merged, adapted, **close)
    assert (merged - plain).abs().max() > 1e-3 * plain.abs().max()


def test_a_lookup_without_a_gradient_holds_the_update_too() -> None:
    torch.manual_seed(0)
    base = layoutlm().eval()
    plain = numbers(base(IDS)).detach()
    model = adapt(base, r=2, target_modules=["rel_pos_bias"], init_weights=False)
    disturb_(model, scale=3.0)
    adapted = numbers(model(IDS)).detach()
    assert (adapted - plain).abs().max() > 1e-4
    torch.testing.assert_close(numbers(model.merge_and_unload()(IDS)), adapted, atol=1e-5, rtol=1e-4)


def test_a_module_that_is_handed_over_where_nobody_reads_weights_is_not_taken_to_be_read() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False)

    model = adapt(Checkpointed(), r=2, target_modules=["inner"], init_weights=False)
    assert layers_of(model)[0].weight is layers_of(model)[0].get_base_layer().weight


def test_padded_batches_of_an_encoder_with_nested_tensors_hold_the_update() -> None:
    torch.manual_seed(0)
    model = adapt(encoder(nested=True), r=2, target_modules=["linear1", "linear2", "out_proj"])
    disturb_(model)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    wanted = model(X, src_key_padding_mask=padding).detach()
    with torch.no_grad():
        fast = model(X, src_key_padding_mask=padding)
        merged = model.merge_and_unload()(X, src_key_padding_mask=padding)
    torch.testing.assert_close(fast, merged, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fast[~padding], wanted[~padding], atol=1e-5, rtol=1e-4)


def test_the_weight_of_a_merged_and_disabled_adapter_is_the_bases() -> None:
    torch.manual_seed(0)
    model = adapt(Attention(), r=2, target_modules=["out_proj"], init_weights=False)
    (layer,) = layers_of(model)
    plain = layer.get_base_layer().weight.clone()
    model.merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(layer.weight, plain)
    assert not torch.allclose(layer.weight, plain, atol=1e-4)


def test_a_weight_that_nobody_computes_with_is_the_bases_own() -> None:
    model = adapt(llama(), r=2, target_modules="all-linear", init_weights=False)
    assert all(layer.weight is layer.get_base_layer().weight for layer in layers_of(model))


def test_an_adapter_for_each_sample_is_refused_where_the_weight_is_read() -> None:
    torch.manual_seed(0)
    model = adapt(Attention(batch_first=True), r=2, target_modules=["out_proj"], init_weights=False)
    with pytest.raises(ValueError, match="reads the weight of .*out_proj without calling the module, so its samples"):
        model(X, adapter_names=["default", "__base__"])
    assert numbers(model(X)).shape == X.shape
    model = adapt(encoder(), r=2, target_modules=["linear1"], init_weights=False)
    mixed = model(X, adapter_names=["default", "__base__"]).detach()
    torch.testing.assert_close(mixed[:1], model(X)[:1])
    with model.disable_adapter():
        torch.testing.assert_close(mixed[1:], model(X)[1:])


class Idle(nn.Module):
    """Never calls `idle`, and reads its weight in a way that nobody can see."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"hidden": [self.used(x)], "loss": self.used(x).square().mean()}


def test_the_first_backward_pass_warns_once_about_what_no_gradient_reaches() -> None:
    model = adapt(Idle(), r=2, target_modules=["used", "idle"])
    with pytest.warns(UserWarning, match="no gradient reached 3 of 6 tensors of the adapter in the first.*: idle"):
        model(torch.ones(2, 6))["loss"].backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.ones(2, 6))["loss"].backward()
        assert not model.base_model.model._forward_hooks


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_evaluation_and_other_derivatives_do_not_use_the_warning_up(reentrant: bool) -> None:
    base = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    base.forward = lambda x: checkpoint(base[1], base[0](x), use_reentrant=reentrant)  # type: ignore[method-assign]
    model = get_peft_model(base, DeepLoraConfig(r=2, target_modules=["0", "1"]))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="no gradient reached")
        x = torch.ones(2, 6, requires_grad=True)
        with torch.no_grad():
            model(x)
        if not reentrant:  # torch refuses `grad` there
            torch.autograd.grad(model(x).sum(), x)
        assert model.base_model.model._forward_hooks
        model(x).sum().backward()
    assert not model.base_model.model._forward_hooks


def test_the_hook_goes_with_the_adapter_and_can_be_copied_and_pickled() -> None:
    model = inject_adapter_in_model(DeepLoraConfig(r=2, target_modules=["used", "idle"]), Idle())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        with pytest.warns(UserWarning, match="no gradient reached 3 of 6"):
            twin(torch.ones(2, 6))["loss"].backward()
    assert not get_peft_model(Idle(), DeepLoraConfig(r=2, target_modules=["used"])).unload()._forward_hooks


def test_many_idle_modules_are_counted_rather_than_listed() -> None:
    base = nn.ModuleDict({f"idle{index}": nn.Linear(4, 4) for index in range(8)} | {"used": nn.Linear(4, 4)})
    base.forward = lambda x: base["used"](x)  # type: ignore[method-assign]
    model = get_peft_model(base, DeepLoraConfig(r=2, target_modules="all-linear"))
    with pytest.warns(UserWarning, match="no gradient reached 24 of 27 .* and 3 more"):
        model(torch.ones(2, 4)).sum().backward()
