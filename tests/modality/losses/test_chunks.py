"""Chunked embeddings: the gradients of the whole batch, dropout included, on memory that does not grow with it."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BatchEncoding

from modality import ContrastiveModel, DualEncoder, Temperature, contrastive_loss, encode_in_chunks
from tests.modality.trainers import Pairs, bert, clip


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside the block held at one time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self._seen = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._take(leaf.untyped_storage())
        return result

    def _take(self, storage):
        key, size = storage.data_ptr(), storage.nbytes()
        if key and key not in self._seen:
            self._seen.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key, size):
        self._seen.discard(key)
        self.live -= size


def gradients(model, batch, seed=5):
    model.train()
    model.zero_grad()
    torch.manual_seed(seed)
    output = model(**batch)
    output.loss.backward()
    return output.loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 4, 10, 100])
def test_chunked_gradients_are_those_of_the_whole_batch(chunk_size) -> None:
    model = ContrastiveModel(clip().double(), temperature=Temperature(0.2, "softplus").double())
    batch = Pairs(10).batch()
    batch["pixel_values"] = batch["pixel_values"].double()
    loss, expected = gradients(model, batch)
    model.chunk_size = model.objective.block_size = chunk_size
    chunked_loss, found = gradients(model, batch)
    assert chunked_loss == pytest.approx(loss, rel=1e-12)
    assert len(found) > 20 and set(found) == set(expected)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-10 * gradient.norm() + 1e-13, name


def test_the_second_pass_draws_the_dropout_of_the_first() -> None:
    """Against finite differences: only if both passes dropped the same units is the gradient that of the loss."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 4)).double()
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)

    def loss():
        torch.manual_seed(7)
        return contrastive_loss(encode_in_chunks(tower, x, 4), y, 5.0)

    value = loss()
    value.backward()
    weight, step = tower[0].weight, 1e-6
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight += step * direction
        above = loss()
        weight -= 2 * step * direction
        below = loss()
    slope = (above - below) / (2 * step)
    assert (weight.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)
    assert tower[0].weight.grad.norm() > 0.01


def test_chunks_of_the_same_size_draw_different_dropout_and_the_random_state_goes_on() -> None:
    torch.manual_seed(0)
    x = torch.ones(8, 50, requires_grad=True)
    out = encode_in_chunks(nn.Dropout(0.5), x, 4)
    state = torch.get_rng_state()
    assert not torch.equal(out[:4], out[4:])
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())  # each entry is 0 or 2, and so is its slope
    assert torch.equal(torch.get_rng_state(), state)


def test_nested_inputs_are_cut_together_and_other_values_passed_on() -> None:
    def encode(inputs):
        assert inputs["flag"] is True and len(inputs["a"]) == len(inputs["b"][0]["inner"]) <= 2
        return inputs["a"] * inputs["b"][0]["inner"]

    a, b = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    out = encode_in_chunks(encode, BatchEncoding({"a": a, "b": [BatchEncoding({"inner": b})], "flag": True}), 2, [])
    assert torch.equal(out, a * b)
    out.sum().backward()
    assert torch.equal(a.grad, b)


def test_parameters_that_are_frozen_or_not_used_get_no_gradient() -> None:
    used, frozen, idle = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3)
    parameters = [p for module in (used, frozen, idle) for p in module.parameters()]
    encode_in_chunks(lambda x: frozen(used(x)), torch.randn(5, 3), 2, parameters).sum().backward()
    assert [p.grad is not None for p in parameters] == [True, True, False, False, False, False]


def test_gradient_hooks_see_each_parameter_once() -> None:
    layer, seen = nn.Linear(3, 3), []
    for parameter in layer.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p))
    encode_in_chunks(layer, torch.randn(9, 3), 2).square().sum().backward()
    assert len(seen) == 2


def test_the_second_pass_is_under_the_autocast_of_the_first() -> None:
    layer, types = nn.Linear(3, 3), []
    layer.register_forward_hook(lambda module, args, output: types.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encode_in_chunks(layer, torch.randn(4, 3), 2)
    out.float().sum().backward()
    assert types == [torch.bfloat16] * 4 and layer.weight.grad.dtype == torch.float32


def peak_of_a_step(count):
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(8, 2048), nn.ReLU(), nn.Linear(2048, 8))
    model = DualEncoder(tower, nn.Identity(), x_width=8, y_width=8, width=4, chunk_size=32)
    x, y = torch.randn(2, count, 8).unbind()
    with PeakMemory() as memory:
        model(x, y).loss.backward()
    return memory.peak


def test_memory_of_a_chunked_step_hardly_grows_with_the_batch() -> None:
    small, large = peak_of_a_step(64), peak_of_a_step(512)
    assert 0 < large <= 1.1 * small + 512 * 512  # embeddings and tiles of the loss: a few hundred bytes a row


def test_evaluation_is_not_chunked_and_returns_logits() -> None:
    model = DualEncoder(nn.Identity(), bert(), x_width=6, y_width=8, width=4, chunk_size=2)
    tokens = {"input_ids": Pairs(5).tokens}
    assert model(torch.randn(5, 6), tokens).logits is None
    assert model.eval()(torch.randn(5, 6), tokens).logits.shape == (5, 5)


@pytest.mark.parametrize(
    "encode", [lambda x: x.mean(0, keepdim=True), lambda x: (x, x), lambda x: x.sum()], ids=["mean", "tuple", "number"]
)
def test_an_encoder_that_returns_no_row_for_each_row_is_refused(encode) -> None:
    with pytest.raises(ValueError, match="for each row, got .* for 2 rows; pick the embeddings from what it returns"):
        encode_in_chunks(encode, torch.randn(5, 3, requires_grad=True), 2, parameters=())
