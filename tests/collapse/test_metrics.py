"""The metrics are the authors', by their recorded run and by slow definitions, on every route."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse import ClassStatistics, nc1, nc2, nc3, neural_collapse
from collapse.metrics import (
    class_distance_normalized_variance,
    feature_norm_spread,
    nearest_center_agreement,
    separation_quotient,
)
from collapse.simplex import dense_simplex_distance, moments_simplex_distance
from collapse.theory import simplex_distance
from tests.collapse.cases import collected, labeled
from tests.measure import LargestTensor
from tests.reference import collapse_metrics as slow

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize(("seed", "batch"), [(None, 64), (1, 1000), (2, 13)])
def test_the_authors_numbers_come_out_in_any_batch_order(case, seed, batch) -> None:
    data, expected = slow.recorded(case)
    order = None if seed is None else np.random.default_rng(seed).permutation(len(data.labels))
    statistics = collected(data, order, batch, dtype=torch.float32)
    found = neural_collapse(statistics, weight=torch.tensor(data.weight))
    assert [found["nc1"], found["nc2"], found["nc3"]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", [0, 1])
def test_the_authors_numbers_come_out_of_merged_statistics(case) -> None:
    data, expected = slow.recorded(case)
    parts = np.array_split(np.random.default_rng(0).permutation(len(data.labels)), 5)
    a, b, c, d, e = (collected(data, part, 40, dtype=torch.float32) for part in parts)
    for merged in (a.merge(b).merge(c).merge(d).merge(e), a.merge(b.merge(c)).merge(d.merge(e))):
        found = neural_collapse(merged, weight=torch.tensor(data.weight))
        assert [found["nc1"], found["nc2"], found["nc3"]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("classes", "features"), [(4, 9), (6, 6), (9, 4)])
@pytest.mark.parametrize("global_mean", ["samples", "classes"])
def test_nc1_is_its_definition_with_more_and_with_fewer_classes_than_dimensions(classes, features, global_mean) -> None:
    data = labeled(samples=150, classes=classes, features=features)
    found = nc1(collected(data), global_mean=global_mean)
    assert found == pytest.approx(slow.nc1(data, global_mean), rel=1e-9)


def test_nc1_cuts_the_pseudo_inverse_where_it_is_told_to() -> None:
    data = labeled(samples=150, classes=5, features=8)
    values = np.linalg.eigvalsh(slow.between_covariance(data))[::-1]
    rcond = math.sqrt(values[1] * values[2]) / values[0]
    assert nc1(collected(data), rcond=rcond) == pytest.approx(slow.nc1(data, rcond=rcond), rel=1e-9)
    assert nc1(collected(data), rcond=rcond) < nc1(collected(data))


def test_the_other_metrics_are_their_definitions() -> None:
    data = labeled(samples=90, classes=5, features=7)
    statistics, weight = collected(data), torch.tensor(data.weight)
    assert separation_quotient(statistics) == pytest.approx(slow.quotient(data), rel=1e-12)
    assert nc2(weight) == pytest.approx(slow.simplex_distance(data.weight, data.weight), rel=1e-12)
    assert nc3(statistics, weight) == pytest.approx(slow.nc3(data), rel=1e-12)
    assert nc3(statistics, weight, centered_means=True) == pytest.approx(slow.nc3(data, centerd=True), rel=1e-12)
    assert class_distance_normalized_variance(statistics) == pytest.approx(slow.cdnv(data), rel=1e-9)
    assert feature_norm_spread(statistics) == pytest.approx(slow.norm_spread(data), rel=1e-12)
    predictions = (data.features @ data.weight.T).argmax(1)
    agreement = nearest_center_agreement(torch.tensor(data.features), torch.tensor(predictions), statistics)
    assert agreement == pytest.approx(slow.nc4(data, predictions), abs=1e-15) and 0 < agreement < 1


def test_the_dictionary_holds_what_the_functions_return_and_leaves_out_what_needs_a_weight() -> None:
    data = labeled()
    statistics, weight = collected(data), torch.tensor(data.weight)
    assert neural_collapse(statistics, weight=weight)["nc1"] == nc1(statistics)
    assert neural_collapse(statistics, quotient=True)["nc1"] == separation_quotient(statistics)
    assert neural_collapse(collected(data, within="trace"))["nc1"] == pytest.approx(separation_quotient(statistics))
    assert set(neural_collapse(statistics)) == {"nc1", "cdnv", "feature_norm_spread"}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(1e-3, 1e3))
def test_metrics_do_not_depend_on_scale_and_rotation(seed, factor) -> None:
    data = labeled(samples=80, seed=seed)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))
    turned = data._replace(features=factor * data.features @ q, weight=data.weight @ q / factor)
    before = neural_collapse(collected(data), weight=torch.tensor(data.weight))
    after = neural_collapse(collected(turned), weight=torch.tensor(turned.weight))
    assert after == pytest.approx(before, rel=1e-7)


def simplex(classes, dimension):
    """K unit rows of a simplex ETF in d >= K dimensions, turned at random."""
    rows = torch.eye(classes, dtype=torch.float64) - 1 / classes
    q = torch.linalg.qr(torch.randn(dimension, classes, dtype=torch.float64)).Q
    return torch.nn.functional.normalize(rows) @ q.mT


def test_collapsed_features_score_zero_and_agree_with_their_centers() -> None:
    etf = simplex(6, 10)
    statistics, labels = ClassStatistics(6, 10), torch.arange(6).repeat(5)
    statistics.update(3 * etf[labels], labels)
    found = neural_collapse(statistics, weight=etf)
    assert max(found.values()) < 1e-13
    assert nearest_center_agreement(etf, torch.arange(6), statistics) == 1.0


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(2, 40), dimension=st.integers(1, 12), closeness=st.sampled_from([0, 1e-3, 1e-7, 1.0]),
    offset=st.booleans(), tile=st.integers(1, 50), seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_moments_route_is_the_dense_one(classes, dimension, closeness, offset, tile, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, dimension, generator=generator, dtype=torch.float64)
    other = 1.7 * weight + closeness * torch.randn(classes, dimension, generator=generator, dtype=torch.float64)
    shift = torch.randn(dimension, generator=generator, dtype=torch.float64) if offset else None
    for pair in ((weight, None), (weight, other)):
        dense = dense_simplex_distance(*pair, shift)
        assert moments_simplex_distance(*pair, shift, tile_rows=tile) == pytest.approx(dense, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-8, 1e-11])
def test_the_moments_route_keeps_its_digits_where_the_distance_is_tiny(noise) -> None:
    etf = simplex(8, 12)
    weight = etf + noise * torch.randn(8, 12, dtype=torch.float64)
    means = 2 * etf + noise * torch.randn(8, 12, dtype=torch.float64)
    dense = dense_simplex_distance(weight, means)
    # A difference of inner products could not go below sqrt(eps) = 1.5e-8.
    assert moments_simplex_distance(weight, means) == pytest.approx(dense, rel=1e-3, abs=2e-14)


def test_many_classes_never_make_a_matrix_over_pairs_of_classes() -> None:
    weight, means = torch.randn(3000, 16), torch.randn(3000, 16, dtype=torch.float64)
    with LargestTensor(weight, means) as largest:
        simplex_distance(weight, means)
    assert largest.numel <= 3000 * 16
    with LargestTensor(weight) as largest:
        simplex_distance(weight[:64])
    assert largest.numel == 64 * 64  # few classes: the dense route is the cheaper one


def test_nearest_centers_are_found_a_tile_of_rows_at_a_time() -> None:
    statistics, labels = ClassStatistics(3000, 4), torch.arange(3000)
    rows = torch.randn(3000, 4)
    statistics.update(rows, labels)
    with LargestTensor(rows, statistics.means) as largest:
        assert nearest_center_agreement(rows, labels, statistics) == 1.0
    assert largest.numel <= 256 * 3000


def test_distance_variance_over_a_subset_of_classes_uses_only_those() -> None:
    data = labeled(samples=200, classes=9)
    kept = np.isin(data.labels, [0, 4, 8])
    few = slow.Labeled(data.features[kept], data.labels[kept], data.weight)
    assert class_distance_normalized_variance(collected(data), max_classes=3) == pytest.approx(slow.cdnv(few), rel=1e-9)


@pytest.mark.parametrize(("width", "sizes"), [(1, (3, 5)), (2, (500, 300)), (16, (30, 31, 32)), (64, (3,) * 40)])
@pytest.mark.parametrize("batch", [3, 1000])
def test_features_in_one_point_are_not_collapsed_classes(width, sizes, batch) -> None:
    """What sums of equal rows leave differs in the last bits from class to class, and is no variation between them."""
    row = np.random.default_rng(1).normal(size=(1, width))
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    data = slow.Labeled(row.repeat(len(labels), 0), labels, np.eye(len(sizes), width))
    statistics = collected(data, batch=batch)
    for measure in (nc1, lambda found: nc3(found, torch.tensor(data.weight), centered_means=True)):
        with pytest.raises(
            ValueError, match="all class means coincide, so NC. is not defined; are the features constant"
        ):
            measure(statistics)
    assert separation_quotient(statistics) == math.inf


@pytest.mark.parametrize("classes", [3, 40])
def test_two_of_many_class_means_that_coincide_have_infinite_distance_variance(classes) -> None:
    data = labeled(samples=600, classes=classes, features=8)
    rows, ids = np.concatenate([data.features, data.features[data.labels == 1][::-1]]), data.labels.tolist()
    twins = slow.Labeled(rows, np.array([*ids, *(ids.count(1) * [classes])]), np.zeros((classes + 1, 8)))
    assert class_distance_normalized_variance(collected(twins)) == math.inf


@pytest.mark.parametrize("classes", [5, 40])
def test_distance_variance_does_not_depend_on_where_the_origin_is(classes) -> None:
    data = labeled(samples=600, classes=classes, features=8)
    far = slow.Labeled(data.features + 1e6, data.labels, data.weight)
    found = class_distance_normalized_variance(collected(far))
    assert found == pytest.approx(class_distance_normalized_variance(collected(data)), rel=1e-7)


def test_coinciding_class_means_have_infinite_distance_variance() -> None:
    statistics = ClassStatistics(2, 1)
    statistics.update(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.tensor([0, 0, 1, 1]))
    assert class_distance_normalized_variance(statistics) == math.inf
    assert separation_quotient(statistics) == math.inf
