"""Swapping: what is exchanged, how often, and what decides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modality import ModalitySwapCollator, swap_features
from modality.losses import ContrastiveObjective
from modality.swapping.swap import SwapRule, apply_swap

COUNT, WIDTH = 40, 50
MODES = ("hard", "soft", "row")


def features():
    x = torch.nn.functional.normalize(torch.randn(2, COUNT, WIDTH, generator=torch.Generator().manual_seed(1)), dim=2)
    return x.unbind()


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mode", MODES)
def test_what_one_modality_loses_the_other_gains(mode) -> None:
    x, y = features()
    new_x, new_y = swap_features(x, y, mode, seeded())
    torch.testing.assert_close(new_x + new_y, x + y)
    assert not torch.equal(new_x, x)
    assert torch.equal(swap_features(x, y, mode, 3)[0], new_x)


def test_hard_exchanges_each_entry_by_itself_with_probability_one_half() -> None:
    x, y = features()
    new_x, new_y = swap_features(x, y, "hard", seeded())
    swapped = new_x == y
    assert torch.equal(torch.where(swapped, y, x), new_x) and torch.equal(torch.where(swapped, x, y), new_y)
    share, spread = swapped.double().mean().item(), 0.5 / (COUNT * WIDTH) ** 0.5
    assert abs(share - 0.5) < 4 * spread
    assert (swapped.double().mean(1) - 0.5).abs().max() < 0.4 > (swapped.double().mean(0) - 0.5).abs().max()


def test_soft_mixes_with_uniform_shares_from_the_old_values() -> None:
    x, y = features()
    new_x, new_y = swap_features(x, y, "soft", seeded())
    share = (new_x - y) / (x - y)
    sure = (x - y).abs() > 0.01  # elsewhere the quotient is rounding
    torch.testing.assert_close(new_y[sure], (share * y + (1 - share) * x)[sure], rtol=1e-3, atol=1e-5)
    values = share[sure].sort().values
    assert -1e-3 < values[0] and values[-1] < 1 + 1e-3
    uniform = torch.linspace(0, 1, len(values))
    assert (values - uniform).abs().max() < 2 / len(values) ** 0.5  # Kolmogorov-Smirnov, far beyond 99 %


def test_row_exchanges_whole_rows_and_only_those_that_are_named() -> None:
    x, y = features()
    rows = torch.arange(COUNT) % 3 == 0
    new_x, new_y = swap_features(x, y, "row", rows=rows)
    assert torch.equal(new_x[rows], y[rows]) and torch.equal(new_x[~rows], x[~rows])
    assert torch.equal(new_y[rows], x[rows])


def test_renormalizing_puts_rows_back_on_the_sphere() -> None:
    x, y = features()
    left = swap_features(x, y, "soft", seeded())[0].norm(dim=1)
    assert (left < 0.95).any()
    norms = swap_features(x, y, "soft", seeded(), renormalize=True)[0].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(COUNT))


def test_gradients_go_where_the_features_came_from() -> None:
    x, y = (side.clone().requires_grad_() for side in features())
    new_x, _ = swap_features(x, y, "hard", seeded())
    new_x.sum().backward()
    assert torch.equal(x.grad + y.grad, torch.ones_like(x)) and 0 < x.grad.mean() < 1


RULES = st.builds(
    SwapRule, st.sampled_from(MODES), st.integers(0, 1000).map(lambda n: n / 1000), st.sampled_from(["step", "sample"]),
    st.integers(0, 2**62), st.booleans(),
)  # fmt: skip


@given(RULES)
def test_a_rule_travels_in_a_batch(rule) -> None:
    found = SwapRule.decode(rule.encode(3))
    assert found._replace(probability=0) == rule._replace(probability=0)
    assert abs(found.probability - rule.probability) <= 2**-33


def decisions(rule, steps=400, rank=0):
    x, y = torch.zeros(COUNT, 1), torch.ones(COUNT, 1)
    return torch.stack([apply_swap(x, y, rule, step, rank)[0][:, 0] for step in range(steps)])


def test_per_step_all_rows_of_all_ranks_decide_together() -> None:
    rule = SwapRule("row", 0.25, "step", seed=5)
    first, second = decisions(rule), decisions(rule, rank=1)
    assert torch.equal(first, second)
    assert (first == first[:, :1]).all()
    assert abs(first[:, 0].mean().item() - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5


def test_per_sample_every_row_decides_for_itself() -> None:
    rule = SwapRule("row", 0.25, "sample", seed=5)
    first, second = decisions(rule, steps=50), decisions(rule, steps=50, rank=1)
    assert abs(first.mean().item() - 0.25) < 4 * (0.25 * 0.75 / first.numel()) ** 0.5
    agreement = (first == second).double().mean().item()
    assert abs(agreement - (0.25**2 + 0.75**2)) < 0.05


def test_entries_differ_between_ranks_and_steps_and_seeds_but_not_between_calls() -> None:
    x, y = features()
    rule = SwapRule("hard", 1.0)
    one = apply_swap(x, y, rule, 7, 0)[0]
    assert torch.equal(one, apply_swap(x, y, rule, 7, 0)[0])
    for other in ((rule, 8, 0), (rule, 7, 1), (rule._replace(seed=1), 7, 0)):
        assert 0.4 < (one == apply_swap(x, y, *other)[0]).double().mean() < 0.6


def test_the_collator_adds_its_rule_once_for_each_sample_and_nothing_else() -> None:
    collate = ModalitySwapCollator(lambda samples: {"x": torch.stack(samples)}, "soft", 0.05, per="sample", seed=9)
    batch = collate([torch.ones(2)] * 3)
    assert set(batch) == {"x", "modality_swap"} and len(batch["modality_swap"]) == 3
    assert (
        SwapRule.decode(batch["modality_swap"])[:1] == ("soft",) and SwapRule.decode(batch["modality_swap"]).seed == 9
    )


def test_swapping_acts_in_training_only_and_counts_only_there() -> None:
    x, y = features()
    objective = ContrastiveObjective()
    encoded = SwapRule("hard", 1.0).encode(COUNT)
    plain = objective(x, y, 10.0).loss
    assert not torch.equal(objective(x, y, 10.0, modality_swap=encoded).loss, plain) and objective.swap_steps == 1
    objective.eval()
    assert torch.equal(objective(x, y, 10.0, modality_swap=encoded).loss, plain) and objective.swap_steps == 1


def test_the_count_is_part_of_the_state_dict() -> None:
    x, y = features()
    encoded = SwapRule("soft", 0.5).encode(COUNT)
    first, second = ContrastiveObjective(), ContrastiveObjective()
    for _ in range(5):
        first(x, y, 10.0, modality_swap=encoded)
    second.load_state_dict(first.state_dict())
    losses = [[m(x, y, 10.0, modality_swap=encoded).loss.item() for _ in range(20)] for m in (first, second)]
    assert losses[0] == losses[1] and len(set(losses[0])) > 2


def test_a_model_without_swaps_loses_what_one_loses_that_swaps_never() -> None:
    x, y = features()
    objective = ContrastiveObjective()
    never = objective(x, y, 10.0, modality_swap=SwapRule("hard", 0.0).encode(COUNT)).loss
    assert torch.equal(never, objective(x, y, 10.0).loss)
