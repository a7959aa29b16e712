"""Features as people have them: tensors, arrays from files, lists; and as many captions for an image as there are."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from modality import (
    LinearAlignment,
    PairStatistics,
    modality_gap,
    recall_at_k,
    search_metrics,
    zero_shot_accuracy,
)
from modality.metrics import linear_separability, margin, mean_shift
from tests.modality.metrics.cases import WIDTH, collected

X, Y = torch.randn(2, 40, WIDTH, generator=torch.Generator().manual_seed(0))
KINDS = {
    "tensors": lambda rows, _: rows,
    "arrays": lambda rows, _: rows.numpy(),
    "lists": lambda rows, _: rows.tolist(),
    "lists of tensors": lambda rows, _: list(rows),
    "tuples of arrays": lambda rows, _: tuple(rows.numpy()),
    "reversed views": lambda rows, _: rows.numpy()[::-1].copy()[::-1],
    "tables": lambda rows, _: pandas.DataFrame(rows.numpy(), index=range(40, 0, -1)),
    "doubles": lambda rows, _: rows.numpy().astype(np.float64),
    "a mapped file": lambda rows, folder: mapped(rows, folder),
}


def mapped(rows: torch.Tensor, folder: Any) -> np.ndarray:
    path = folder / f"{float(rows.sum())}.npy"
    np.save(path, rows.numpy())
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_takes_stored_features(kind, tmp_path) -> None:
    x, y = (KINDS[kind](rows, tmp_path) for rows in (X, Y))
    statistics = PairStatistics(WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statistics.update(x, y)
        assert modality_gap(x, y) == pytest.approx(modality_gap(collected(X, Y)), abs=1e-6)
        assert modality_gap(statistics) == pytest.approx(modality_gap(collected(X, Y)), abs=1e-6)
        ids = list(range(40))
        assert recall_at_k(x, y) == recall_at_k(x, y, x_ids=ids) == recall_at_k(X, Y)
        assert margin(x, y, ids=ids) == pytest.approx(margin(X, Y), abs=1e-6)
        assert linear_separability(x, y, statistics) == linear_separability(X, Y, collected(X, Y))
        shifted = mean_shift(x, y)
    assert all(torch.allclose(new.float(), old, atol=1e-6) for new, old in zip(shifted, mean_shift(X, Y), strict=True))


def test_more_captions_than_images_have_a_gap_but_no_distances_within_pairs() -> None:
    images = X[:8]
    found, repeated = modality_gap(images, Y), modality_gap(images.repeat_interleave(5, 0), Y)
    for name in ("gap", "distribution_gap", "linear_separability"):
        assert found[name] == pytest.approx(repeated[name], abs=1e-12)
    assert repeated.keys() - found.keys() == {"paired_distance", "alignment"}
    both = torch.cat([images, Y]).double()
    both = both / both.norm(dim=1, keepdim=True)
    covariance = torch.cov(both.mT, correction=0)
    roots = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    squared = both.mean(0).square().sum() + 1 + covariance.trace() - 2 / WIDTH**0.5 * roots.sum()
    assert found["uniformity"] == pytest.approx(-squared.sqrt().item(), abs=1e-6)
    assert modality_gap(Y, images)["gap"] == pytest.approx(found["gap"])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: modality_gap(X), TypeError, "features of both modalities, got one Tensor; call `modality_gap"),
        (lambda: modality_gap(X[:8], Y[:, :3]), ValueError, "project both modalities to one width"),
        (lambda: modality_gap(X[:1], Y), ValueError, "at least two pairs, got 1"),
        (lambda: modality_gap(X[:8] * float("nan"), Y), ValueError, "hold NaN or inf"),
        (lambda: modality_gap([[1.0], [1.0, 2.0]], Y), TypeError, "must be a floating-point tensor .*got list"),
        (lambda: modality_gap([torch.ones(2), torch.ones(3)], Y), TypeError, "got list"),
        (lambda: modality_gap(["a", "b"], Y), TypeError, "got list"),
        (lambda: modality_gap(np.array(["a", "b"]), Y), TypeError, "got ndarray"),
        (lambda: modality_gap(X.numpy().astype(int), Y), TypeError, "got torch.int64"),
        (lambda: collected(X[:8], Y), ValueError, "repeat a row that has several counterparts"),
    ],
)
def test_anything_that_is_not_features_is_refused(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


TABLE = pandas.DataFrame(Y.numpy())
SHUFFLED = TABLE[::-1]
IDS = pandas.Series(range(40))


@pytest.mark.parametrize(
    "call",
    [
        lambda: modality_gap(TABLE, SHUFFLED),
        lambda: recall_at_k(TABLE, SHUFFLED),
        lambda: recall_at_k(TABLE, SHUFFLED, x_ids=IDS),
        lambda: recall_at_k(X, TABLE, x_ids=IDS, y_ids=IDS[::-1]),
        lambda: margin(TABLE, SHUFFLED),
        lambda: search_metrics(X, TABLE, IDS, IDS[::-1]),
        lambda: zero_shot_accuracy(TABLE, X, IDS[::-1]),
        lambda: LinearAlignment.fit({"image": TABLE, "text": SHUFFLED}, onto="text"),
    ],
)
def test_tables_with_the_same_index_in_different_orders_are_refused(call) -> None:
    with pytest.raises(ValueError, match="have the same index in different orders, and rows are matched by position"):
        call()


def test_rows_in_another_order_with_their_ids_are_right() -> None:
    right = recall_at_k(X, Y, x_ids=IDS, y_ids=IDS)
    assert recall_at_k(X, SHUFFLED, x_ids=IDS, y_ids=IDS[::-1]) == right == recall_at_k(X, TABLE)


def test_masked_features_are_refused() -> None:
    masked = np.ma.masked_greater(X.numpy(), 2.0)
    for call in (modality_gap, recall_at_k):
        with pytest.raises(ValueError, match=f"{masked.mask.sum()} values of `features` are masked, and they would"):
            call(masked, Y)


def test_pictures_that_are_repeated_for_their_captions_are_warned_of() -> None:
    images, captions = X.repeat_interleave(5, 0), Y.repeat_interleave(5, 0)
    with pytest.warns(UserWarning, match="x has 40 distinct rows among 200, .* pass what the rows show as `x_ids`"):
        assert recall_at_k(images, captions)["y_to_x_recall@1"] < 0.1  # the copies of a picture are as near as itself
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recall_at_k(X, Y)
        recall_at_k(images, captions, x_ids=np.arange(200) // 5)
        recall_at_k(images, captions, pairs=[(row, row) for row in range(200)])
