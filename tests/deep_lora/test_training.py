"""Plain AdamW at LoRA's usual rate on all adapter parameters trains every rank (the fast version of the promise)."""

import math

import pytest
import torch
from torch import Tensor

from tests.models import adapt, adapter_tensors, bert_classifier, ids

TARGETS = ["query", "key", "value", "dense"]
LABELS = torch.arange(16) % 2


def _losses(steps: int, lr: float, **settings) -> list[float]:
    """Training losses of AdamW(lr) on the adapters alone: 16 random sentences with labels that mean nothing."""
    base = bert_classifier(width=64)
    with torch.no_grad():
        base.classifier.weight.mul_(10)  # a head of order one, as a trained one is; it stays frozen
    model = adapt(base, target_modules=TARGETS, **settings).train()
    trained = list(adapter_tensors(model).values())
    assert all(p.requires_grad for p in trained)
    optimizer = torch.optim.AdamW(trained, lr=lr)
    sentences: Tensor = ids(16, 12)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=sentences, labels=LABELS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _trains(losses: list[float]) -> None:
    assert all(math.isfinite(loss) for loss in losses)
    assert min(losses) < 0.1 * losses[0]  # learned by heart
    # no divergence: from its lowest value on the loss stays far below the start
    assert max(losses[losses.index(min(losses)) :]) < 0.5 * losses[0]


@pytest.mark.parametrize("rank", [2, 8, 64])
def test_adamw_at_the_usual_rate_overfits_at_every_rank(rank: int) -> None:
    _trains(_losses(150, lr=1e-3, r=rank))


@pytest.mark.parametrize("settings,lr", [({"variant": "narrow", "init_scale": 0.3}, 5e-3), ({"depth": 2}, 1e-3)])
def test_other_variants_and_depths_overfit_too(settings: dict, lr: float) -> None:
    _trains(_losses(150, lr=lr, r=8, **settings))


def test_frozen_bases_still_learn() -> None:
    losses = _losses_with_frozen_bases(steps=60)
    assert losses[-1] < 0.8 * losses[0]


def _losses_with_frozen_bases(steps: int) -> list[float]:
    model = adapt(bert_classifier(width=64), target_modules=TARGETS, r=16, gamma=0.0).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=ids(16, 12), labels=LABELS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
