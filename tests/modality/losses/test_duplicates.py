"""Duplicates in either loss, pairs of unknown identity, and rows of zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modality import DualEncoder, contrastive_loss, recall_at_k, sigmoid_loss
from modality.losses import ContrastiveObjective, duplicate_mask
from modality.metrics import margin

IDS = torch.tensor([0, 1, 0, 2, 1, 0])


def rows(count=6, width=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, count, width, generator=generator, dtype=torch.float64).unbind()


def sigmoid_by_hand(x, y, same, duplicates):
    x, y = (a / a.norm(dim=1, keepdim=True) for a in (x, y))
    logits, own = (10 * x @ y.T - 3).numpy(), np.eye(len(x), dtype=bool)
    pulled = own if duplicates == "exclude" else same | own
    pushed = ~(same | own)
    return (np.logaddexp(0, -logits)[pulled].sum() + np.logaddexp(0, logits)[pushed].sum()) / len(x)


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("duplicates", ["share", "exclude"])
def test_the_sigmoid_loss_treats_duplicates_as_it_is_told(duplicates, block_size) -> None:
    x, y = rows()
    same = (IDS[:, None] == IDS).numpy()
    expected = sigmoid_by_hand(x, y, same, duplicates)
    settings = {"duplicates": duplicates, "block_size": block_size}
    assert sigmoid_loss(x, y, 10.0, -3.0, ids=IDS, **settings).item() == pytest.approx(expected, rel=1e-12)
    mask = torch.from_numpy(same)
    assert sigmoid_loss(x, y, 10.0, -3.0, positives=mask, **settings).item() == pytest.approx(expected, rel=1e-12)
    objective = ContrastiveObjective("sigmoid", duplicates=duplicates, block_size=block_size)
    assert objective(x, y, 10.0, -3.0, ids=IDS).loss.item() == pytest.approx(expected, rel=1e-12)


def test_a_model_hands_its_choice_on_to_the_sigmoid_loss() -> None:
    losses = []
    for duplicates in ("share", "exclude"):
        torch.manual_seed(0)
        towers = {"x_tower": torch.nn.Identity(), "y_tower": torch.nn.Identity(), "x_width": 4, "y_width": 4}
        model = DualEncoder(**towers, width=3, loss="sigmoid", duplicates=duplicates).double()
        losses.append(model(*rows(), ids=IDS).loss.item())
    assert abs(losses[0] - losses[1]) > 0.1


@pytest.mark.parametrize("duplicates", ["share", "exclude"])
@pytest.mark.parametrize(
    "loss", [contrastive_loss, lambda x, y, scale, **more: sigmoid_loss(x, y, scale, -1.0, **more)]
)
def test_an_unknown_id_is_like_an_id_of_its_own(loss, duplicates) -> None:
    x, y = rows()
    unknown, own = torch.tensor([-1, 4, -1, 4, -1, 5]), torch.tensor([0, 4, 1, 4, 2, 5])
    found, expected = (loss(x, y, 5.0, ids=ids, duplicates=duplicates).item() for ids in (unknown, own))
    assert found == pytest.approx(expected, rel=1e-12)
    nothing = loss(x, y, 5.0, ids=torch.full((6,), -1), duplicates=duplicates).item()
    assert nothing == pytest.approx(loss(x, y, 5.0).item(), rel=1e-12)


def test_metrics_and_masks_treat_unknown_ids_alike() -> None:
    x, y = rows()
    unknown, own = torch.tensor([-1, 4, -1, 4, -1, 5]), torch.tensor([0, 4, 1, 4, 2, 5])
    assert torch.equal(duplicate_mask(unknown), duplicate_mask(own))
    assert margin(x, y, ids=unknown) == margin(x, y, ids=own)
    assert recall_at_k(x, y, (1, 2), x_ids=unknown) == recall_at_k(x, y, (1, 2), x_ids=own)
    assert recall_at_k(x, y, (1, 2), y_ids=torch.full((6,), -1)) == recall_at_k(x, y, (1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("block_size", [None, 2])
def test_a_row_of_zeros_passes_no_gradient_and_spoils_no_other(dtype, block_size) -> None:
    x, y = (part.to(dtype).requires_grad_() for part in rows())
    with torch.no_grad():
        x[0], y[2] = 0, 0
    for loss in (contrastive_loss(x, y, 20.0, block_size=block_size), sigmoid_loss(x, y, 20.0, -5.0)):
        x.grad = y.grad = None
        loss.backward()
        assert loss.isfinite() and x.grad[0].norm() == 0 == y.grad[2].norm()
        assert 0 < x.grad[1:].norm() < 100 and 0 < y.grad[:2].norm() < 100
