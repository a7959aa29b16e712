"""LoRA under the bound and with the limited steps of Deep LoRA, against their definitions."""

from __future__ import annotations

import copy

import pytest
import torch
from peft.tuners.lora import Linear
from torch.optim import AdamW

from benchmarks.few_shot.methods import Method, adapted, optimizer_of
from benchmarks.few_shot.one_run import effective_ranks
from benchmarks.few_shot.tasks.base import Task


def test_a_bounded_lora_computes_with_the_bounded_update(word_pairs: Task) -> None:
    method, model, chosen = (
        Method("lora", {"r": 2}, max_update_norm=0.5),
        word_pairs.model(0).eval(),
        word_pairs.split(0)["train"][:4],
    )
    adapted(method, model, word_pairs, lambda: None, 0)
    model.eval()
    layer = next(m for m in model.encoder.modules() if isinstance(m, Linear))
    layer.lora_B["default"].weight.data.normal_()
    update = 4.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # lora_alpha 8, rank 2
    bound = 0.5 * torch.linalg.svdvals(layer.base_layer.weight).square().mean().sqrt()
    x = torch.randn(3, layer.in_features)
    expected = layer.base_layer(x) + x @ (update / (1 + (update.norm() / bound) ** 2).sqrt()).T
    for _ in range(2):  # the bound is not applied to what it has scaled
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(word_pairs.loss(model, chosen, 0)) and effective_ranks(method, model) == []


def test_the_steps_of_a_limited_lora_are_a_share_of_what_they_change_or_of_the_bound(word_pairs: Task) -> None:
    method, model = Method("lora", {"r": 2}, max_update_norm=0.5, max_relative_step=0.1), word_pairs.model(0)
    adapted(method, model, word_pairs, lambda: None, 0)
    optimizer = optimizer_of(method, model, 10.0, 1e-3)
    layer = next(m for m in model.encoder.modules() if isinstance(m, Linear))
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    before = A.detach().clone()
    for parameter in (A, B):
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert ((A - before).norm() / before.norm()).item() == pytest.approx(0.1, rel=1e-4)
    bound = 0.5 * torch.linalg.svdvals(layer.base_layer.weight).square().mean().sqrt()
    reach = bound / (4.0 * torch.linalg.svdvals(before).square().mean().sqrt())  # lora_alpha 8, rank 2
    assert (B.norm() / reach).item() == pytest.approx(0.1, rel=1e-4)
    B.data.mul_(1000)
    start = B.detach().clone()
    optimizer.param_groups[0].update(lr=2.5, initial_lr=10.0)  # as a scheduler leaves it
    optimizer.step()
    assert ((B - start).norm() / start.norm()).item() == pytest.approx(0.025, rel=1e-4)
    free = AdamW([start.requires_grad_()], lr=1e-6, weight_decay=0.0)  # a low rate is obeyed
    start.data, start.grad = B.detach().clone(), B.grad
    free.load_state_dict({**free.state_dict(), "state": {0: copy.deepcopy(optimizer.state[B])}})
    optimizer.param_groups[0].update(lr=1e-6)
    for one in (optimizer, free):
        one.step()
    torch.testing.assert_close(B, start)


@pytest.mark.parametrize("rank", [2, 8])
def test_a_limit_by_rank_is_the_given_one_for_cores_of_rank_eight_and_for_bases(rank: int, word_pairs: Task) -> None:
    config = {"r": rank, "max_update_norm": 0.5}
    method, model = Method("deep_lora", config, max_relative_step=0.1, limit_by_rank=True), word_pairs.model(0)
    adapted(method, model, word_pairs, lambda: None, 0)
    optimizer = optimizer_of(method, model, 10.0, 1e-3)
    expected = {"core": 0.1 * (rank / 8) ** 0.5, "_U": 0.1, "_V": 0.1}
    tensors = [(kind, p) for name, p in model.encoder.named_parameters() for kind in expected if kind in name]
    before = [tensor.detach().clone() for _, tensor in tensors]
    for _, tensor in tensors:
        tensor.grad = torch.randn_like(tensor)
    optimizer.step()
    assert len(tensors) == 3 * 36
    for (kind, tensor), old in zip(tensors, before, strict=True):
        assert ((tensor - old).norm() / old.norm()).item() == pytest.approx(expected[kind], rel=1e-3)
