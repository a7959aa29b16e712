"""The rows of a last batch that count are those that `accelerator.gather_for_metrics` keeps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from evaluation_hooks import has_repeats, valid_rows
from tests.evaluation_hooks.cases import Numbers


def process(rank, processes, remainder, last=True, inside=True):
    state = SimpleNamespace(in_dataloader=inside, end_of_dataloader=last, remainder=remainder)
    return SimpleNamespace(gradient_state=state, num_processes=processes, process_index=rank)


@given(processes=st.integers(1, 5), rows=st.integers(1, 6), data=st.data())
def test_ranks_in_order_keep_the_first_rows_of_the_gathered_batch(processes, rows, data) -> None:
    remainder = data.draw(st.integers(0, processes * rows))
    ranks = [process(rank, processes, remainder) for rank in range(processes)]
    gathered = [(rank, row) for rank in range(processes) for row in range(rows)]
    expected = gathered[:remainder] if remainder > 0 else gathered  # as in accelerate
    kept = [(rank, row) for rank, one in enumerate(ranks) for row in range(valid_rows(one, rows))]
    assert kept == expected
    assert {has_repeats(one, rows) for one in ranks} == {len(kept) < len(gathered)}


@pytest.mark.parametrize("place", [{"last": False}, {"inside": False}])
def test_every_row_of_another_batch_counts(place) -> None:
    one = process(1, 2, 3, **place)
    assert valid_rows(one, 4) == 4 and not has_repeats(one, 4)


def test_one_process_repeats_nothing() -> None:
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare_data_loader(DataLoader(Numbers(10), batch_size=4))
    assert [valid_rows(accelerator, len(batch["x"])) for batch in loader] == [4, 4, 2]
