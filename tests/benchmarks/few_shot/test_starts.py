"""Initializations that the library does not offer, against the dense gradient and the library."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.few_shot.methods import Method, adapted
from benchmarks.few_shot.tasks.base import Task
from deep_lora import DeepLoraLayer, initialize_subspaces_
from tests.models import bases_of, layers_of


def gradients_of(model: Any, task: Task, chosen: np.ndarray) -> dict[str, torch.Tensor]:
    """What the loss says of every weight that Deep LoRA adapts, by autograd on the plain model."""
    plain = task.model(0).eval()
    task.loss(plain, chosen, 0).backward()
    layers = {name: m for name, m in model.encoder.base_model.model.named_modules() if isinstance(m, DeepLoraLayer)}
    return {name: plain.encoder.get_submodule(name).weight.grad for name in layers}


@pytest.mark.parametrize("start", ["aligned", "left", "right"])
def test_other_starts_span_the_singular_vectors_of_the_gradient(start: str, word_pairs: Task) -> None:
    chosen, model = word_pairs.split(0)["train"][:4], word_pairs.model(0).eval()
    method = Method("deep_lora", {"r": 2}, start=start)
    adapted(method, model, word_pairs, lambda: word_pairs.loss(model, chosen, 0).backward(), 0)
    for name, gradient in gradients_of(model, word_pairs, chosen).items():
        layer = model.encoder.base_model.model.get_submodule(name)
        U, V = bases_of(layer)
        left, right = _svd(gradient)
        if start != "right":
            assert (U.mT @ left).square().sum() == pytest.approx(2, abs=1e-2)
        if start != "left":
            assert (V.mT @ right).square().sum() == pytest.approx(2, abs=1e-2)
        if start == "aligned":
            assert torch.trace(U.mT @ gradient @ V) < 0  # larger cores lower the loss
        chosen_factor = V if start == "right" else U
        torch.testing.assert_close(chosen_factor.mT @ chosen_factor, torch.eye(2), atol=1e-4, rtol=0)
    assert not any(layer.get_base_layer().weight.requires_grad for layer in layers_of(model))


@pytest.mark.parametrize("start", ["permuted partners", "drawn partners"])
def test_other_partners_have_the_subspaces_of_the_library_and_the_lengths_of_its_own(
    start: str, word_pairs: Task
) -> None:
    chosen, models = word_pairs.split(0)["train"][:4], [word_pairs.model(0).eval() for _ in range(2)]
    for model, name in zip(models, ("", start), strict=True):
        method = Method("deep_lora", {"r": 2}, batches=1, start=name)
        adapted(method, model, word_pairs, partial(_backward, word_pairs, model, chosen), 3)
    for layer, other in zip(*map(layers_of, models), strict=True):
        assert torch.equal(layer.deep_lora_V["default"], other.deep_lora_V["default"])
        U, mine = bases_of(layer)[0], bases_of(other)[0]
        assert not torch.allclose(U, mine, atol=1e-2)
        assert mine.norm().item() == pytest.approx(U.norm().item(), rel=0.3)
        if layer.out_features >= layer.in_features:
            torch.testing.assert_close(mine.mT @ mine, torch.eye(2), atol=1e-4, rtol=0)


def test_the_right_start_of_the_study_is_that_of_the_library(word_pairs: Task) -> None:
    chosen, products = word_pairs.split(0)["train"][:4], []
    for start in ("right", ""):
        model = word_pairs.model(0).eval()
        closure = partial(_backward, word_pairs, model, chosen)
        adapted(Method("deep_lora", {"r": 2}, start=start), model, word_pairs, closure, 3)
        if not start:
            initialize_subspaces_(model.encoder, closure, seed=3, sides="right")
        layers = layers_of(model)
        products.append([layer.deep_lora_U["default"] @ layer.deep_lora_V["default"].mT for layer in layers])
    assert max((mine - library).norm().item() for mine, library in zip(*products, strict=True)) < 1e-2


def _backward(task: Task, model: Any, chosen: np.ndarray) -> None:
    task.loss(model, chosen, 0).backward()


def _svd(gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    return left[:, :2], right[:2].mT
