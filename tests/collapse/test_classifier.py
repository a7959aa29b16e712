"""The normalized classifier: cosines times scale, whatever the lengths, in any precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from collapse import NormalizedClassifier, attainable_loss, retract_, scale_for_loss
from collapse.theory import unit_rows


def test_logits_are_cosines_times_tau_whatever_the_lengths() -> None:
    head, x = NormalizedClassifier(6, 4, scale=3.0), torch.randn(5, 6)
    expected = 3.0 * functional.cosine_similarity(x[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(x), expected, rtol=0, atol=3 * 8 * torch.finfo(torch.float32).eps)
    with torch.no_grad():
        head.weight *= torch.tensor([[0.1], [1.0], [7.0], [1e-3]])
    torch.testing.assert_close(head(50 * x), expected, rtol=0, atol=3 * 8 * torch.finfo(torch.float32).eps)


def test_it_starts_on_the_sphere_and_a_step_with_retraction_ends_there() -> None:
    head = NormalizedClassifier(6, 4)
    eps = 8 * torch.finfo(torch.float32).eps
    assert (head.weight.norm(dim=1) - 1).abs().max() < eps
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    functional.cross_entropy(head(torch.randn(8, 6)), torch.arange(8) % 4).backward()
    optimizer.step()
    assert (head.weight.norm(dim=1) - 1).abs().max() > 1e-3  # the step leaves the sphere
    assert retract_(nn.Sequential(head)) == 1
    assert (head.weight.norm(dim=1) - 1).abs().max() < eps


def test_the_gradient_of_unit_rows_is_tangent_to_the_sphere() -> None:
    head = NormalizedClassifier(6, 4, dtype=torch.float64)
    x = unit_rows(torch.randn(8, 6, dtype=torch.float64)).requires_grad_()
    functional.cross_entropy(head(x), torch.arange(8) % 4).backward()
    for rows in (head.weight, x):
        assert (rows * rows.grad).sum(1).abs().max() < 1e-15 < rows.grad.abs().max()


def test_a_zero_feature_gives_zero_logits_and_no_gradient() -> None:
    x = torch.zeros(2, 6, requires_grad=True)
    logits = NormalizedClassifier(6, 4)(x)
    functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert torch.equal(logits, torch.zeros(2, 4)) and torch.equal(x.grad, torch.zeros(2, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_heads_give_float32_logits_of_their_rounded_weights(dtype) -> None:
    head = NormalizedClassifier(64, 4, scale=10.0).to(dtype)
    x = (1000 * torch.randn(3, 64)).to(dtype)  # the sum of squares is beyond float16
    expected = 10 * functional.cosine_similarity(x.double()[:, None], head.weight.double()[None], dim=-1)
    assert head(x).dtype == torch.float32
    torch.testing.assert_close(head(x).double(), expected, rtol=0, atol=10 * 64 * torch.finfo(torch.float32).eps)


def test_autocast_does_not_round_the_cosines() -> None:
    head, x = NormalizedClassifier(64, 4), torch.randn(3, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(x)
    assert torch.equal(inside, head(x))


def test_a_learnable_scale_is_one_parameter_that_learns_and_a_fixed_one_none() -> None:
    fixed, learnable = NormalizedClassifier(6, 4), NormalizedClassifier(6, 4, 5.0, learnable_scale=True)
    assert [name for name, _ in fixed.named_parameters()] == ["weight"]
    assert learnable.scale.item() == 5.0
    functional.cross_entropy(learnable(torch.randn(8, 6)), torch.arange(8) % 4).backward()
    torch.optim.SGD(learnable.parameters(), lr=1.0).step()
    assert learnable.scale.item() != 5.0
    copy = NormalizedClassifier(6, 4, 5.0, learnable_scale=True)
    copy.load_state_dict(learnable.state_dict())
    assert copy.scale.item() == learnable.scale.item()


def test_a_saved_scale_wins_over_the_constructor() -> None:
    head = NormalizedClassifier(6, 4, scale=2.0)
    head.load_state_dict(NormalizedClassifier(6, 4, scale=7.0).state_dict())
    assert head.scale.item() == 7.0
    assert "scale=7" in repr(head) and "margin" not in repr(head)


def test_the_margin_is_taken_off_the_own_cosine_in_training_only() -> None:
    head, x, labels = NormalizedClassifier(6, 4, 5.0, margin=0.2), torch.randn(3, 6), torch.tensor([2, 0, -100])
    plain = head(x)
    difference = plain - head(x, labels)
    expected = torch.zeros(3, 4)
    expected[0, 2] = expected[1, 0] = 5.0 * 0.2
    torch.testing.assert_close(difference, expected, rtol=0, atol=1e-6)
    assert torch.equal(head.eval()(x, labels), plain)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("loss", [1e-6, 0.01, 0.5])
def test_the_default_scale_makes_a_loss_attainable(classes, loss) -> None:
    assert attainable_loss(classes, scale_for_loss(classes, loss)) == pytest.approx(loss, rel=1e-9)
    default = NormalizedClassifier(4, classes).scale.item()
    assert attainable_loss(classes, default) == pytest.approx(0.01, rel=1e-5)


def test_the_attainable_loss_is_the_cross_entropy_of_a_simplex_on_itself() -> None:
    for classes, scale in ((2, 1.0), (5, 0.5), (10, 30.0)):
        cosines = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1.0)
        direct = functional.cross_entropy(scale * cosines, torch.arange(classes)).item()
        assert attainable_loss(classes, scale) == pytest.approx(direct, rel=1e-12, abs=1e-15)
    assert attainable_loss(1000, 1.0) > 5.9 and attainable_loss(10, 1e-9) == pytest.approx(math.log(10))


def test_a_temperature_that_divides_is_warned_of_where_the_scale_multiplies() -> None:
    with pytest.warns(
        UserWarning, match="multiplies the cosines, so the loss is above 2.25 where.*its inverse, here 20"
    ):
        NormalizedClassifier(16, 10, scale=0.05)
