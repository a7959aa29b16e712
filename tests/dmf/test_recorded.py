"""Starts and loss trajectories of the authors' own code (see tests/reference/recorded/README.md)."""

from __future__ import annotations

import pytest
import torch

from dmf import CompressedDMF, DeepMatrixFactorization, masked_loss, parameter_groups
from dmf.factorization import MatrixFactorization
from dmf.functional import chain_product
from tests.reference.recorded_dmf import CASES, RecordedCase, case


def wide_start(recorded: RecordedCase) -> DeepMatrixFactorization:
    depth, init_scale = len(recorded.factors), recorded.init_scale
    model = DeepMatrixFactorization(*recorded.target.shape, depth=depth, init_scale=init_scale, dtype=torch.float64)
    model.load_state_dict({f"factors.{level}": factor for level, factor in enumerate(recorded.factors)})
    return model


def compressed_start(recorded: RecordedCase) -> CompressedDMF:
    wide = wide_start(recorded)
    product = wide().detach().requires_grad_()
    masked_loss(product, recorded.target, recorded.mask, average="all").backward()
    return CompressedDMF.from_gradient(wide, product.grad, 2 * recorded.rank)


def losses_of(
    model: MatrixFactorization, recorded: RecordedCase, points: int, gamma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses on observed and on the other entries, at the start and after every `inner` steps."""
    optimizer = torch.optim.SGD(parameter_groups(model, recorded.step, gamma), lr=recorded.step)
    train, test = [], []
    for step in range((points - 1) * recorded.inner + 1):
        product = model()
        loss = masked_loss(product, recorded.target, recorded.mask, average="all")
        if step % recorded.inner == 0:
            train.append(loss.detach())
            test.append(masked_loss(product.detach(), recorded.target, ~recorded.mask, average="all"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.stack(train), torch.stack(test)


@pytest.mark.parametrize("name", CASES)
def test_the_compressed_start_is_the_recorded_one(name):
    recorded = case(name)
    model = compressed_start(recorded)
    right, *cores, left = recorded.compressed
    assert model.left.shape == left.shape and model.right.shape == right.mT.shape
    assert (model.core - torch.stack(cores)).abs().max().item() <= 1e-8
    # Bases are unique up to a rotation that both share: the product of the outer factors and the spans.
    assert (model.left @ model.right.mT - left @ right).norm().item() <= 1e-8
    assert (model.right @ model.right.mT - right.mT @ right).norm().item() <= 1e-8
    assert (model() - chain_product(recorded.compressed)).norm().item() <= 1e-8 * recorded.init_scale ** len(cores)


@pytest.mark.parametrize("run", ["full", "comp0.0", "comp0.01"])
@pytest.mark.parametrize("name", CASES)
def test_loss_trajectories_are_the_recorded_ones(name, run):
    recorded = case(name)
    model = wide_start(recorded) if run == "full" else compressed_start(recorded)
    gamma = 1.0 if run == "full" else float(run.removeprefix("comp"))
    expected = recorded.losses[f"{run}_train"]
    train, test = losses_of(model, recorded, len(expected), gamma)
    # The completion case ends at 1e-20, where rounding alone moves a loss by 1e-8 of its size.
    assert (train.log() - expected.log()).abs().max().item() <= 1e-3
    if f"{run}_test" in recorded.losses:
        assert (test.log() - recorded.losses[f"{run}_test"].log()).abs().max().item() <= 1e-3
    assert expected[-1] < 0.2 * expected[0], "a run that stands still shows nothing"
