"""Observed entries: order, sources, moves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmf import ObservedEntries

few = settings(max_examples=40, deadline=None)


@st.composite
def triplets(draw):
    """Distinct entries of a small matrix in random order."""
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    flat = draw(st.lists(st.integers(0, shape[0] * shape[1] - 1), min_size=1, max_size=30, unique=True))
    index = torch.tensor(flat)
    return index // shape[1], index % shape[1], torch.randn(len(flat), dtype=torch.float64), shape


@few
@given(triplets())
def test_entries_are_the_given_ones_sorted_by_row_then_column(given_entries):
    rows, cols, values, shape = given_entries
    entries = ObservedEntries(rows, cols, values, shape)
    assert len(entries) == len(values) and entries.shape == shape
    for mine, theirs in ((entries.rows, rows), (entries.cols, cols), (entries.values, values)):
        assert torch.equal(mine, theirs[entries.order])
    assert bool(((entries.rows * shape[1] + entries.cols).diff() > 0).all())


@few
@given(triplets())
def test_dense_sparse_and_triplet_data_give_the_same_entries(given_entries):
    rows, cols, values, shape = given_entries
    expected = ObservedEntries(rows, cols, values, shape)
    with_nan = torch.full(shape, float("nan"), dtype=torch.float64)
    with_nan[rows, cols] = values
    coo = torch.sparse_coo_tensor(torch.stack([rows, cols]), values, shape, check_invariants=True)
    others = [
        ObservedEntries.from_dense(with_nan),
        ObservedEntries.from_dense(with_nan, ~torch.isnan(with_nan)),
        ObservedEntries.from_dense(with_nan, (~torch.isnan(with_nan)).double()),
        ObservedEntries.from_sparse(coo),
        ObservedEntries.from_sparse(coo.coalesce().to_sparse_csr()),
        ObservedEntries.from_sparse(coo.coalesce().to_sparse_csc()),
    ]
    for other in others:
        assert other.shape == shape and torch.equal(other.values, expected.values)
        assert torch.equal(other.rows, expected.rows) and torch.equal(other.cols, expected.cols)


def test_an_observed_zero_is_an_observation():
    index, values = torch.tensor([[0, 1], [1, 0]]), torch.tensor([0.0, 2.0])
    sparse = torch.sparse_coo_tensor(index, values, (2, 2), check_invariants=True)
    assert ObservedEntries.from_sparse(sparse).values.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_changes_the_precision_of_the_values_alone(dtype):
    entries = ObservedEntries.from_dense(torch.rand(4, 3))
    moved = entries.to(dtype=dtype)
    assert moved.values.dtype == dtype and entries.values.dtype == torch.float32
    assert torch.equal(moved.rows, entries.rows) and torch.equal(moved.order, entries.order)
    assert torch.equal(moved.to("cpu").cols, entries.cols)


def test_indices_of_any_integer_type_are_taken():
    values = torch.tensor([1.0, 2.0])
    for dtype in (torch.int16, torch.int32, torch.int64):
        index = torch.tensor([199, 0], dtype=dtype)  # 199 * 200 does not fit 16 bits
        entries = ObservedEntries(index, index, values, (200, 200))
        assert entries.rows.tolist() == entries.cols.tolist() == [0, 199]


def test_a_shape_that_the_entries_cannot_fill_is_refused_before_memory_is_taken():
    index, value = torch.tensor([0]), torch.tensor([1.0])
    for shape in ((10**17, 3), (3, 10**17), (2**40, 2**40)):
        with pytest.raises(ValueError, match=rf"a matrix of {shape[0]} x {shape[1]} with 1 observed entries is nearly"):
            ObservedEntries(index, index, value, shape)
    assert ObservedEntries(index, index, value, (10**6, 10**6)).shape == (10**6, 10**6)


def test_other_values_at_the_same_entries_keep_order_and_pattern():
    entries = ObservedEntries(torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([5.0, 7.0]), (2, 3))
    changed = entries.with_values(torch.tensor([1.0, 2.0]))
    assert changed.values.tolist() == [1.0, 2.0] and changed.pattern is entries.pattern
    assert torch.equal(changed.order, entries.order) and entries.values.tolist() == [7.0, 5.0]
