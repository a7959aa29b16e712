"""Streamed statistics are those of all pairs at once, in any batches, merged or reduced over processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modality import PairStatistics
from tests.modality.metrics.cases import STATE, WIDTH, assert_same, collected, pairs


@pytest.mark.parametrize("normalize", [True, False])
def test_state_is_that_of_the_definition(normalize) -> None:
    x, y = pairs(3000, offset=0.5)
    found = collected(x, y, sizes=1300, normalize=normalize)
    if normalize:
        x, y = (side / side.norm(dim=1, keepdim=True) for side in (x, y))
    for side, rows in enumerate((x, y)):
        torch.testing.assert_close(found.means[side], rows.mean(0), rtol=0, atol=1e-13)
        expected = torch.cov(rows.T, correction=0) * len(rows)
        torch.testing.assert_close(found.scatters[side], expected, rtol=1e-11, atol=1e-9)
    distances = (x - y).norm(dim=1)
    torch.testing.assert_close(
        found.distances, torch.stack([distances.sum(), (distances**2).sum()]), rtol=1e-12, atol=0
    )


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_batches_and_merging_give_what_one_update_gives(sizes) -> None:
    x, y = pairs(sum(sizes), seed=len(sizes))
    whole = collected(x, y)
    assert_same(collected(x, y, sizes=sizes), whole)
    parts = [collected(*batch) for batch in zip(x.split(sizes), y.split(sizes), strict=True)]
    merged = PairStatistics(WIDTH)
    for part in parts:
        merged = merged.merge(part)
    assert_same(merged, whole)
    assert_same(parts[0].merge(parts[1]), parts[1].merge(parts[0]))


def test_a_common_offset_far_from_zero_costs_no_accuracy() -> None:
    x, y = pairs(500)
    near = collected(x, y, sizes=100, normalize=False)
    far = collected(x + 1e6, y + 1e6, sizes=100, normalize=False)
    torch.testing.assert_close(far.scatters, near.scatters, rtol=0, atol=1e-5 * 500)  # eps * offset * spread * n


def test_features_in_float32_are_taken_up_in_float64() -> None:
    x, y = (side.float() for side in pairs(200))
    assert_same(collected(x, y), collected(x.double(), y.double()))


@pytest.mark.slow
def test_two_processes_hold_what_one_holds_also_if_one_saw_nothing(ranks) -> None:
    first, second = (found["statistics"] for found in ranks)
    whole = collected(*pairs(30))
    for mine, theirs in zip(first, second, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in STATE)
        reduced = PairStatistics(WIDTH)
        for name in STATE:
            setattr(reduced, name, mine[name])
        assert_same(reduced, whole)


def test_without_a_process_group_reducing_copies() -> None:
    statistics = collected(*pairs(5))
    copy = statistics.reduce()
    copy.update(*pairs(3))
    assert statistics.num_pairs == 5 and copy.num_pairs == 8
