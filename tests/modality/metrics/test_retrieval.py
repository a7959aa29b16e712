"""Recall and margin are their definitions, whatever the blocks, with duplicates and ties counted as stated."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modality import recall_at_k
from modality.metrics import margin
from tests.measure import LargestTensor
from tests.reference import contrastive as slow

WIDTH = 4


def features(count, seed=0, noise=0.7):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return x, x + noise * torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)


@given(st.integers(0, 30), st.integers(2, 40), st.integers(1, 50))
def test_recall_and_margin_of_pairs_are_their_definitions(seed, count, block_size) -> None:
    x, y = features(count, seed)
    found = recall_at_k(x, y, ks=(1, 3), block_size=block_size)
    ids = torch.arange(count).numpy()
    for k in (1, 3):
        assert found[f"x_to_y_recall@{k}"] == pytest.approx(slow.recall(x.numpy(), y.numpy(), k, ids, ids))
        assert found[f"y_to_x_recall@{k}"] == pytest.approx(slow.recall(y.numpy(), x.numpy(), k, ids, ids))
    assert found["x_to_y_pool"] == found["y_to_x_pool"] == count
    assert margin(x, y, block_size=block_size) == pytest.approx(slow.margin(x.numpy(), y.numpy()), rel=1e-12)


@pytest.mark.parametrize("block_size", [3, 100])
def test_several_captions_for_an_image_are_all_right_answers(block_size) -> None:
    y_ids = torch.tensor([0, 0, 1, 2, 2, 2, 3, 1])
    x, _ = features(4)
    y = x[y_ids] + 0.9 * torch.randn(8, WIDTH, dtype=torch.float64)
    found = recall_at_k(x, y, ks=(1, 2), x_ids=torch.arange(4), y_ids=y_ids, block_size=block_size)
    ids = torch.arange(4).numpy()
    assert found["x_to_y_recall@2"] == slow.recall(x.numpy(), y.numpy(), 2, ids, y_ids.numpy())
    assert found["y_to_x_recall@1"] == slow.recall(y.numpy(), x.numpy(), 1, y_ids.numpy(), ids)
    assert (found["x_to_y_pool"], found["y_to_x_pool"]) == (8, 4)


@pytest.mark.parametrize("block_size", [2, 100])
def test_captions_of_several_images_are_right_for_each_of_them_and_for_no_others(block_size) -> None:
    """Image 0 has captions 0 and 1, image 1 captions 1 and 2, image 2 caption 2: 0 is wrong for 1, and 2 for 0."""
    pairs = torch.tensor([[2, 2], [0, 0], [1, 1], [0, 1], [1, 2]])
    x, y = features(3)
    found = recall_at_k(x, y, ks=(1, 2), pairs=pairs, block_size=block_size)
    right = torch.zeros(3, 3, dtype=torch.bool).index_put(tuple(pairs.mT), torch.tensor(True))
    cosines = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    for name, scores, answers in (("x_to_y", cosines, right), ("y_to_x", cosines.mT, right.mT)):
        for k in (1, 2):
            hits = [bool(own[row.topk(k).indices].any()) for row, own in zip(scores, answers, strict=True)]
            assert found[f"{name}_recall@{k}"] == pytest.approx(sum(hits) / 3)
    same = {"x_ids": torch.arange(3), "y_ids": torch.tensor([0, 2, 1])}
    assert recall_at_k(x, y, **same) == recall_at_k(x, y, pairs=torch.tensor([[0, 0], [1, 2], [2, 1]]))


@pytest.mark.parametrize(
    ("pairs", "ids", "told"),
    [
        ([[0, 0]], torch.arange(3), "`pairs` and ids both say which rows belong together"),
        ([[0.0, 1.0]], None, r"`pairs` must be integers of shape \(p, 2\), got torch.float32"),
        ([[0, 3]], None, "`pairs` must name rows from 0 to 2 of x and from 0 to 2 of y"),
        ([[0, 0], [1, 1]], None, "1 queries x_to_y have no row with their id in the pool"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(pairs, ids, told) -> None:
    x, y = features(3)
    with pytest.raises(ValueError, match=told):
        recall_at_k(x, y, (1,), x_ids=ids, pairs=pairs)


def test_duplicates_are_not_held_against_each_other() -> None:
    rows = torch.eye(3).double()[[0, 1, 2, 0]]
    ids = torch.tensor([0, 1, 2, 0])
    assert recall_at_k(rows, rows, ks=(1,), x_ids=ids)["x_to_y_recall@1"] == 1
    assert recall_at_k(rows, rows, ks=(1,))["x_to_y_recall@1"] == 0.5  # the twin ties, and a tie counts as nearer
    assert margin(rows, rows, ids=ids) == pytest.approx(1.0) and margin(rows, rows) == pytest.approx(0.0)


def test_collapsed_features_retrieve_nothing() -> None:
    rows = torch.ones(5, WIDTH)
    assert recall_at_k(rows, rows, ks=(1, 4, 5)) == {
        "x_to_y_recall@1": 0, "x_to_y_recall@4": 0, "x_to_y_recall@5": 1, "x_to_y_pool": 5,
        "y_to_x_recall@1": 0, "y_to_x_recall@4": 0, "y_to_x_recall@5": 1, "y_to_x_pool": 5,
    }  # fmt: skip


@given(st.integers(0, 30), st.integers(2, 40), st.sampled_from([2, 16, 384]), st.integers(1, 50))
def test_the_margin_of_rows_that_are_the_same_is_zero(seed, count, width, block_size) -> None:
    """A cosine's last bits depend on its place, and the definition compares a cosine with itself."""
    rows = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)).repeat(count, 1)
    assert margin(rows, rows, block_size=block_size) == 0


def test_no_square_matrix_is_formed() -> None:
    x, y = features(600)
    with LargestTensor(x, y) as largest:
        recall_at_k(x, y, block_size=50)
        margin(x, y, block_size=50)
    assert largest.numel == 50 * 600
