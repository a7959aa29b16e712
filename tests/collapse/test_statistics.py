"""Class statistics are what their definitions say, however the samples arrive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse import ClassStatistics, neural_collapse
from tests.collapse.cases import EPS, assert_same, collected, labeled
from tests.measure import LargestTensor
from tests.reference import collapse_metrics as slow


def test_counts_means_and_scatter_are_those_of_the_definition() -> None:
    data = labeled()
    statistics = collected(data)
    assert statistics.counts.tolist() == np.bincount(data.labels).tolist()
    for label in data.classes:
        np.testing.assert_allclose(statistics.means[label], data.mean(label), rtol=0, atol=100 * EPS)
        rows = data.features[data.labels == label] - data.mean(label)
        np.testing.assert_allclose(statistics.squared_deviations[label], (rows**2).sum(), rtol=1e3 * EPS)
    np.testing.assert_allclose(statistics.within_scatter, slow.within_scatter(data), rtol=0, atol=1e4 * EPS)
    norms = np.linalg.norm(data.features, axis=1)
    np.testing.assert_allclose(statistics.norm_mean, norms.mean(), rtol=100 * EPS)
    np.testing.assert_allclose(statistics.norm_deviation, ((norms - norms.mean()) ** 2).sum(), rtol=1e3 * EPS)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 60), cuts=st.lists(st.integers(0, 60), max_size=3))
def test_any_batch_order_and_any_grouping_of_merges_agree(seed, batch, cuts) -> None:
    data = labeled()
    order = np.random.default_rng(seed).permutation(60)
    pieces = [collected(data, part, batch) for part in np.split(order, sorted(cuts))]
    left = pieces[0]
    for piece in pieces[1:]:
        left = left.merge(piece)
    right = pieces[-1]
    for piece in reversed(pieces[:-1]):
        right = piece.merge(right)
    whole = collected(data, batch=60)
    assert_same(left, whole, scale=10)
    assert_same(right, whole, scale=10)


def test_a_batch_larger_than_a_tile_gives_what_single_rows_give() -> None:
    data = labeled(samples=700, classes=3)
    assert_same(collected(data, batch=700), collected(data, batch=1), scale=10, terms=10_000)


def test_scatter_survives_features_far_from_the_origin() -> None:
    near, far = labeled(), labeled(offset=1e7)
    scatter = collected(far).within_scatter
    # The features themselves are rounded at 1e7 eps; sums of raw squares would lose all 14 digits.
    np.testing.assert_allclose(scatter, slow.within_scatter(near), rtol=0, atol=60 * 10 * 1e7 * EPS)


def test_the_trace_alone_is_the_trace_of_the_full_scatter() -> None:
    data = labeled()
    full, trace = collected(data), collected(data, within="trace")
    assert trace.within_scatter is None
    torch.testing.assert_close(trace.squared_deviations.sum(), full.within_scatter.trace(), rtol=1e3 * EPS, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_features_are_accumulated_in_float64(dtype) -> None:
    data = labeled(samples=500)
    rounded = data._replace(features=torch.tensor(data.features).to(dtype).double().numpy())
    assert_same(collected(data, dtype=dtype), collected(rounded), scale=10, terms=10_000)


def test_classes_without_samples_change_nothing_but_their_own_rows() -> None:
    data = labeled()
    padded = data._replace(weight=np.vstack([data.weight, np.zeros((3, 5))]))
    statistics = collected(padded)
    assert statistics.observed.tolist() == [True] * 4 + [False] * 3
    weight = torch.tensor(data.weight)
    few, many = (
        neural_collapse(collected(data), weight=weight),
        neural_collapse(statistics, weight=torch.tensor(padded.weight)),
    )
    for name in ("nc1", "nc3", "cdnv", "feature_norm_spread"):
        assert many[name] == pytest.approx(few[name], rel=1e4 * EPS), name


def test_ignored_labels_and_leading_dimensions_are_those_of_token_classification() -> None:
    rows, labels = torch.randn(3, 4, 5), torch.tensor([[0, 1, -100, 2], [-100] * 4, [2, 2, 1, 0]])
    tokens, flat = ClassStatistics(3, 5), ClassStatistics(3, 5)
    tokens.update(rows, labels)
    flat.update(rows[labels != -100], labels[labels != -100])
    assert_same(tokens, flat)
    tokens.update(rows[1], labels[1])
    assert tokens.num_samples == 7


def test_a_refused_batch_leaves_the_statistics_as_they_were() -> None:
    data = labeled()
    statistics, untouched = collected(data), collected(data)
    bad = torch.full((600, 5), 1.0)
    bad[-1] = float("nan")
    with pytest.raises(ValueError, match="features hold NaN or inf"):
        statistics.update(bad, torch.zeros(600, dtype=torch.long))
    assert_same(statistics, untouched, terms=0)


@pytest.mark.parametrize("within", ["full", "trace"])
def test_an_update_allocates_nothing_that_grows_with_the_number_of_classes(within) -> None:
    sizes = {}
    for classes in (100, 50_000):
        statistics = ClassStatistics(classes, 32, within=within)
        labels = torch.randint(0, classes, (512,))
        with LargestTensor(statistics.means, statistics.counts, statistics.squared_deviations) as largest:
            statistics.update(torch.randn(512, 32), labels)
        sizes[classes] = largest.numel
    # The batch itself is the largest thing; only the count over all classes (an integer each) may pass it.
    assert sizes[50_000] <= max(512 * 32, 50_000) and sizes[100] <= 512 * 32


def test_reduce_without_a_process_group_is_a_copy() -> None:
    data = labeled()
    statistics = collected(data)
    copy = statistics.reduce()
    assert_same(copy, statistics, terms=0)
    copy.update(torch.ones(1, 5), torch.tensor([0]))
    assert statistics.num_samples == 60 and copy.num_samples == 61


def test_stored_arrays_and_lists_are_added_as_tensors_are() -> None:
    rows, labels = torch.randn(6, 3), torch.arange(6) % 2
    found = [ClassStatistics(2, 3) for _ in range(2)]
    found[0].update(rows, labels)
    found[1].update(rows.numpy(), labels.tolist())
    assert torch.equal(found[0].means, found[1].means)
