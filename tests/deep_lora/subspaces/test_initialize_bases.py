"""`initialize_subspaces_` on base weights that are quantized, tied, or stored in another precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deep_lora import initialize_subspaces_
from deep_lora.subspaces.restoring import dropout_off
from tests.models import adapt, bases_of, bert_classifier, disturb_, ids, layers_of, llama
from tests.reference.first_gradient import product_of_bases, weight_gradient

BOTH_CONSTRUCTIONS = pytest.mark.parametrize("sides", ["both", "right"])


def loss(output):
    return (output * torch.linspace(-1, 2, output.shape[-1]).to(output)).sin().sum()


def written(layer):
    U, V = bases_of(layer)
    return U.double() @ V.double().mT


class WithUpdate(nn.Module):
    """A frozen layer plus `x dW^T` with a dense dW, for layers whose weight cannot be replaced."""

    def __init__(self, base, out, into):
        super().__init__()
        self.base, self.update = base, nn.Parameter(torch.zeros(out, into))

    def forward(self, x):
        return self.base(x) + x @ self.update.T


@pytest.mark.parametrize("bits", [8, 4])
@BOTH_CONSTRUCTIONS
def test_a_quantised_weight_is_never_read_and_the_gradient_is_that_of_a_dense_update(bits, sides):
    bnb = pytest.importorskip("bitsandbytes")
    into, out = 128, 64  # bitsandbytes packs CPU weights in blocks of 64 by 32
    make = bnb.nn.Linear8bitLt if bits == 8 else bnb.nn.Linear4bit
    settings = {"has_fp16_weights": False, "threshold": 6.0} if bits == 8 else {"quant_type": "nf4"}
    layer = make(into, out, bias=False, **settings)
    layer.load_state_dict({"weight": torch.randn(out, into) / 8})
    layer = layer.to("cpu")
    inputs = torch.randn(10, into)
    wrapped = WithUpdate(layer, out, into).eval()
    loss(wrapped(inputs)).backward()
    model = nn.Sequential(layer)
    if bits == 8:
        model.is_loaded_in_8bit = True
    else:
        model.is_loaded_in_4bit = True
    model = adapt(model, target_modules=["0"], r=4)
    (adapted,) = layers_of(model)
    assert adapted.quantization_backend is not None
    before = layer.weight.data.clone()
    expected, tolerance = product_of_bases(wrapped.update.grad.double(), 4, 0, sides)
    report = initialize_subspaces_(model, lambda: loss(model(inputs)).backward(), seed=0, sides=sides, exact_bytes=0)
    assert report.kept_random == [] and torch.equal(layer.weight.data, before)
    assert (written(adapted) - expected).norm().item() <= tolerance


@BOTH_CONSTRUCTIONS
def test_a_bfloat16_model_gets_the_bases_of_its_own_gradient(sides):
    base = nn.Sequential(nn.Linear(12, 9), nn.Tanh()).bfloat16()
    inputs = torch.randn(10, 12).bfloat16()
    model = adapt(base, target_modules=["0"], r=4, autocast_adapter_dtype=False)
    (layer,) = layers_of(model)
    assert layer.deep_lora_U["default"].dtype == torch.bfloat16
    # The output's gradient is bfloat16, the same for both; sums over tokens are float32 inside.
    delta = []
    with torch.no_grad():
        output = base[0](inputs)
    output.requires_grad_().register_hook(lambda grad: delta.append(grad))
    loss(torch.tanh(output)).backward()
    expected, _ = product_of_bases(delta[0].double().mT @ inputs.double(), 4, 0, sides)
    initialize_subspaces_(model, lambda: loss(model(inputs)).backward(), seed=0, sides=sides, exact_bytes=0)
    # Entries of orthonormal columns, each rounded by half an eps: sqrt(2 factors * 4 columns) eps in all.
    assert (written(layer) - expected).norm().item() <= 8**0.5 * torch.finfo(torch.bfloat16).eps
    with torch.no_grad():
        assert torch.equal(model(inputs), torch.tanh(output)), "a fresh adapter stays an exact identity"


def test_half_precision_bases_are_found_under_autocast_too():
    model = adapt(bert_classifier(), target_modules=["query", "value"], r=4)

    def closure():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(ids()).logits
        output.float().square().sum().backward()

    report = initialize_subspaces_(model, closure, exact_bytes=0)
    assert len(report.initialized) == 4 and report.kept_random == []
    for layer in layers_of(model):
        _, V = bases_of(layer)
        assert V.dtype == torch.float32 and torch.allclose(V.mT @ V, torch.eye(4), atol=1e-5)


@BOTH_CONSTRUCTIONS
def test_double_precision_keeps_its_digits(sides):
    base, inputs = nn.Sequential(nn.Linear(9, 7)).double(), torch.randn(20, 9, dtype=torch.float64)
    expected, tolerance = product_of_bases(weight_gradient(base, "0.weight", inputs, loss), 4, 0, sides)
    model = adapt(base, target_modules=["0"], r=4, autocast_adapter_dtype=False)
    (layer,) = layers_of(model)
    assert layer.deep_lora_U["default"].dtype == torch.float64
    initialize_subspaces_(model, lambda: loss(model(inputs)).backward(), seed=0, sides=sides, exact_bytes=0)
    assert (written(layer) - expected).norm().item() <= tolerance * 1e-8  # eps64 / eps32 is 2e-9


def adapted_tied():
    base = llama(tie_word_embeddings=True, hidden_size=8)
    return adapt(base, target_modules=["embed_tokens", "lm_head"], r=4, ensure_weight_tying=True)


def test_a_tied_head_has_the_update_of_its_embedding():
    model = adapted_tied()
    disturb_(model)
    embedding, head = (layer.get_delta_weight("default") for layer in layers_of(model))  # both (vocabulary, width)
    assert embedding.norm() > 0
    # Products of 3 cores and two bases in another order: a few eps of the norm.
    assert (embedding - head).norm().item() <= 20 * torch.finfo(torch.float32).eps * embedding.norm().item()


def test_a_tied_head_follows_its_embedding_and_both_stay_an_identity():
    model = adapted_tied()
    embedding, head = layers_of(model)
    with torch.no_grad():
        before = model(ids()).logits
    report = initialize_subspaces_(model, lambda: loss(model(ids()).logits).backward(), exact_bytes=0)
    assert report.initialized == ["base_model.model.model.embed_tokens"] and report.kept_random == []
    assert embedding.deep_lora_U["default"] is head.deep_lora_V["default"]
    assert embedding.deep_lora_V["default"] is head.deep_lora_U["default"]
    with torch.no_grad():
        assert torch.equal(model(ids()).logits, before)


@BOTH_CONSTRUCTIONS
def test_a_tied_update_is_initialised_from_the_sum_of_its_two_gradients(sides):
    model = adapted_tied()
    base = model.base_model.model
    # One dense dW (out = width, in = vocabulary): the embedding looks its columns up, the head is its transpose.
    update = torch.zeros(8, 41, requires_grad=True)
    hooks = [
        base.model.embed_tokens.register_forward_hook(lambda m, args, out: out + update.T[args[0]]),
        base.lm_head.register_forward_hook(lambda m, args, out: out + args[0] @ update),
    ]
    loss(model(ids()).logits).backward()
    for hook in hooks:
        hook.remove()
    expected, tolerance = product_of_bases(update.grad.double(), 4, 0, sides)
    initialize_subspaces_(model, lambda: loss(model(ids()).logits).backward(), seed=0, sides=sides, exact_bytes=0)
    assert (written(layers_of(model)[0]) - expected).norm().item() <= tolerance


def test_evaluating_for_the_gradients_does_not_repack_4_bit_weights_for_a_kernel_without_gradients() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].support_avx512bf16_for_cpu = True
    with dropout_off(model):
        assert not model.training and model[0].support_avx512bf16_for_cpu is False
    assert model.training and model[0].support_avx512bf16_for_cpu is True
