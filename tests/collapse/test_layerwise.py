"""Collapse from layer to layer: the quotient of each layer, and the progressive collapse of deep linear networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from collapse import layerwise_collapse
from dmf.theory import log_linear_fit
from tests.reference import collapse_metrics as slow


def deep_linear(depth: int, width: int, scale: float) -> nn.Sequential:
    layers = [nn.Linear(width, width, bias=False, dtype=torch.float64) for _ in range(depth)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain=scale)
    return nn.Sequential(*layers)


def test_each_layer_has_the_quotient_of_its_own_output_in_any_batching() -> None:
    model, x, y = deep_linear(3, 6, 0.9), torch.randn(40, 6, dtype=torch.float64), torch.arange(40) % 4
    found = layerwise_collapse(model, zip(x.split(9), y.split(9), strict=True), ["0", "2"], num_classes=4)
    for name, depth in (("0", 1), ("2", 3)):
        rows = model[:depth](x).detach().numpy()
        assert found[name] == pytest.approx(slow.quotient(slow.Labeled(rows, y.numpy(), rows)), rel=1e-12)
    assert not any(layer._forward_hooks for layer in model)


def test_a_trained_deep_linear_network_collapses_by_a_constant_factor_for_each_layer() -> None:
    # Yaras et al., arXiv:2306.01154: orthogonal data, one-hot targets, small orthogonal start.
    classes, each, width, depth = 3, 4, 12, 5
    torch.manual_seed(0)
    model, x = deep_linear(depth, width, 0.5), torch.eye(width, dtype=torch.float64)
    model[-1] = nn.Linear(width, classes, bias=False, dtype=torch.float64)
    nn.init.orthogonal_(model[-1].weight, gain=0.5)
    y = torch.arange(classes).repeat_interleave(each)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(4000):
        optimizer.zero_grad()
        loss = (model(x) - nn.functional.one_hot(y).double()).square().sum() / 2 / width
        loss.backward()
        optimizer.step()
    assert loss < 1e-4
    names = [str(index) for index in range(depth - 1)]
    quotients = list(layerwise_collapse(model, [(x, y)], names, classes).values())
    ratios = [after / before for before, after in zip(quotients[:-1], quotients[1:], strict=True)]
    assert max(ratios) < 0.5  # every layer separates
    assert max(ratios) / min(ratios) < 1.5  # by about the same factor
    assert min(ratios) <= log_linear_fit(torch.tensor(quotients)).factor <= max(ratios)


def test_mappings_are_passed_as_keywords_and_the_first_output_of_a_tuple_counts() -> None:
    class Pair(nn.Module):
        def forward(self, x):
            return x, None

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x, scale):
            return self.pair(scale * x)

    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]])
    batch = ({"x": x, "scale": 2.0}, torch.tensor([0, 0, 1, 1]))
    assert layerwise_collapse(Holder(), [batch], ["pair"], 2) == {"pair": 0.25}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_measured_as_they_are(dtype) -> None:
    labels = torch.arange(4_000) % 10
    rows = (torch.randn(10, 16)[labels] + 0.3 * torch.randn(4_000, 16) + 100).to(dtype)
    model = nn.Sequential(nn.Identity())
    found = layerwise_collapse(model, [(rows, labels)], ["0"], 10)["0"]
    assert found == pytest.approx(layerwise_collapse(model, [(rows.double(), labels)], ["0"], 10)["0"], rel=1e-9)
