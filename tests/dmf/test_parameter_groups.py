"""Discrepant rates of cores and outer factors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dmf import CompressedDMF, DeepMatrixFactorization, masked_loss, parameter_groups

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_outer_factors_move_gamma_times_as_far(optimizer_class):
    gamma, lr = 0.25, 1e-3
    moves = []
    for ratio in (1.0, gamma):
        model = CompressedDMF(
            6, 5, rank=2, init_scale=0.5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = optimizer_class(parameter_groups(model, lr, ratio), lr=lr)
        masked_loss(model(), torch.ones(6, 5, dtype=torch.float64), torch.ones(6, 5)).backward()
        optimizer.step()
        moves.append({name: value - before[name] for name, value in model.state_dict().items()})
    for name, factor in (("core", 1.0), ("left", gamma), ("right", gamma)):
        assert torch.allclose(moves[1][name], factor * moves[0][name], rtol=1e-9, atol=4 * EPS)
        assert moves[0][name].norm().item() > 0


def test_gamma_zero_freezes_the_outer_factors_and_a_positive_one_frees_them():
    model = CompressedDMF(6, 5, rank=2)
    assert [group["name"] for group in parameter_groups(model, 0.1, 0.0)] == ["core"]
    assert not model.left.requires_grad and not model.right.requires_grad and model.core.requires_grad
    assert [group["name"] for group in parameter_groups(model, 0.1, 0.5)] == ["core", "outer"]
    assert model.left.requires_grad and model.right.requires_grad


def test_groups_are_found_inside_other_modules_and_hold_every_trainable_parameter_once():
    holder = nn.ModuleDict({
        "compressed": CompressedDMF(6, 5, rank=2), "wide": DeepMatrixFactorization(6, 5), "bias": nn.Linear(2, 1)
    })  # fmt: skip
    holder["bias"].weight.requires_grad_(False)
    groups = parameter_groups(holder, 0.1)
    assert [(group["name"], group["lr"], len(group["params"])) for group in groups] == [
        ("core", 0.1, 1), ("outer", 0.1 * 0.01, 2), ("other", 0.1, 4)
    ]  # fmt: skip
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in holder.parameters() if parameter.requires_grad)


def test_a_wide_factorization_has_one_rate():
    (group,) = parameter_groups(DeepMatrixFactorization(4, 4), 0.1, gamma=0.0)
    assert group["lr"] == 0.1 and len(group["params"]) == 3
