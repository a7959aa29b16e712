"""Each baseline loss is what its formula says, by a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from collapse.losses import nonl_loss, ntce_loss, regularized_cross_entropy


@pytest.fixture
def batch():
    features, weight = torch.randn(7, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    return features, torch.tensor([0, 1, 2, 0, 1, 0, 2]), weight


def slow(features, labels, weight, scale, others_only):
    unit = [row / np.linalg.norm(row) for row in features.numpy()]
    anchors = [row / np.linalg.norm(row) for row in weight.numpy()]
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        kept = [j for j in range(len(unit)) if not others_only or labels[j] != label]
        scores = [math.exp(scale * anchors[label] @ unit[j]) for j in kept]
        total -= math.log(math.exp(scale * anchors[label] @ unit[i]) / sum(scores))
    return total / len(unit)


@pytest.mark.parametrize(("loss", "others_only"), [(ntce_loss, False), (nonl_loss, True)])
@pytest.mark.parametrize("scale", [1.0, 14.0])
def test_losses_over_the_batch_are_their_definitions(batch, loss, others_only, scale) -> None:
    expected = slow(*batch, scale, others_only)
    assert loss(*batch, scale).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [ntce_loss, nonl_loss])
def test_losses_over_the_batch_pull_features_and_class_vectors(batch, loss) -> None:
    features, labels, weight = batch
    loss(features.requires_grad_(), labels, weight.requires_grad_(), 5.0).backward()
    assert features.grad.abs().min(1).values.max() > 0 and weight.grad.abs().sum(1).min() > 0
    assert (features * features.grad).sum(1).abs().max() < 1e-14  # lengths do not matter


def test_the_regularized_loss_adds_half_squares_summed_over_the_batch(batch) -> None:
    features, labels, weight = batch
    logits = features @ weight.T
    plain = torch.nn.functional.cross_entropy(logits, labels).item()
    squares = sum(x * x for row in [*weight.tolist(), *features.tolist()] for x in row)
    found = regularized_cross_entropy(logits, labels, features, weight, strength=1e-2).item()
    assert found == pytest.approx(plain + 0.005 * squares, rel=1e-6)
