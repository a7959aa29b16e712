"""Ranking metrics: equal to scikit-learn's, and to their definitions where it has none."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.metrics import average_precision_score, ndcg_score

from dmf.ranking import ranking_metrics

ITEMS = 12


def random_case(seed: int) -> tuple[np.ndarray, list[set[int]]]:
    rng = np.random.default_rng(seed)
    ranked = np.array([rng.permutation(ITEMS) for _ in range(8)])
    return ranked, [set(rng.permutation(ITEMS)[: rng.integers(1, 7)].tolist()) for _ in range(8)]


def as_scores(ranked: np.ndarray, relevant: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Relevance and score of every item, as scikit-learn takes them."""
    truth = np.array([[item in wanted for item in range(ITEMS)] for wanted in relevant], float)
    return truth, -np.argsort(ranked, axis=1).astype(float)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, ITEMS])
def test_ndcg_is_that_of_scikit_learn(seed, k):
    ranked, relevant = random_case(seed)
    assert ranking_metrics(ranked, relevant, k).ndcg == pytest.approx(
        ndcg_score(*as_scores(ranked, relevant), k=k), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_over_whole_lists_is_that_of_scikit_learn(seed):
    ranked, relevant = random_case(seed)
    cases = as_scores(ranked, relevant)
    expected = np.mean([average_precision_score(*row) for row in zip(*cases, strict=True)])
    assert ranking_metrics(ranked, relevant, ITEMS).map == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_recall_and_map_are_their_definitions(k):
    ranked, relevant = random_case(9)
    recalls, precisions = [], []
    for row, wanted in zip(ranked.tolist(), relevant, strict=True):
        top = row[:k]
        recalls.append(len(set(top) & wanted) / len(wanted))
        sums = [len(set(top[: i + 1]) & wanted) / (i + 1) for i, item in enumerate(top) if item in wanted]
        precisions.append(sum(sums) / min(k, len(wanted)))
    found = ranking_metrics(ranked, relevant, k)
    assert found.recall == pytest.approx(np.mean(recalls)) and found.map == pytest.approx(np.mean(precisions))


def test_users_without_relevant_items_do_not_count_and_shorter_lists_are_cut_off():
    assert ranking_metrics([["a"], ["b"]], [{"a"}, set()], 5) == (1.0, 1.0, 1.0, 1)
    assert ranking_metrics([["a"], ["b"]], [{"a", "z"}, []], 2)[1:] == (0.5, 0.5, 1)


def test_tables_are_read_in_their_order_and_not_by_their_index():
    lists = pandas.Series([[1, 2], [3, 4]], index=[1, 0])
    assert ranking_metrics(lists, pandas.Series([{1}, {3}], index=[1, 0]), k=1).ndcg == 1.0


def test_lists_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="must be lists with an entry for each user, in the same order; take those"):
        ranking_metrics({"ann": [1]}, {"ann": {1}})
    with pytest.raises(ValueError, match="there are 1 lists of recommended items and 2 of relevant ones; pass one of"):
        ranking_metrics([[1]], [{1}, {2}])
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        ranking_metrics([[1]], [{1}], 0)
    with pytest.raises(ValueError, match="list 0 names an item twice among its first 2; pass distinct items"):
        ranking_metrics([[1, 1]], [{1}], 2)
    with pytest.raises(ValueError, match="no user has a relevant item, so there is nothing to find; check the ids"):
        ranking_metrics([[1]], [set()])
    with pytest.raises(
        ValueError, match="recommended items are text, and relevant ones numbers, so none is found; pass ids"
    ):
        ranking_metrics([["1", "2"]], [{1}], k=1)
    for single in ("ab", 1):
        with pytest.raises(
            ValueError, match=f"needs a collection of items for each user, got {single!r}; pass {{{single!r}}}"
        ):
            ranking_metrics([["a", "b"]], [single], k=1)


RANKED, RELEVANT = [[1, 2], [3, 4]], [[2, 5], [3, 6]]
EXPECTED = ranking_metrics(RANKED, RELEVANT, 2)


@pytest.mark.parametrize(
    ("recommended", "relevant"),
    [
        (torch.tensor(RANKED), RELEVANT),
        (RANKED, torch.tensor(RELEVANT)),
        (RANKED, [torch.tensor(items) for items in RELEVANT]),
        ([[torch.tensor(item) for item in items] for items in RANKED], [set(items) for items in RELEVANT]),
        (np.array(RANKED), np.array(RELEVANT)),
        (pandas.DataFrame(RANKED, columns=["first", "second"]), pandas.Series(RELEVANT, index=[7, 3])),
        ([np.int32(RANKED[0]), RANKED[1]], [pandas.Series(items) for items in RELEVANT]),
    ],
)
def test_lists_tensors_arrays_and_tables_of_ids_are_the_same(recommended, relevant):
    """A tensor in a set is only equal to itself, so that nothing would be found."""
    assert EXPECTED.recall == 0.5 and ranking_metrics(recommended, relevant, 2) == EXPECTED


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        (
            [np.array([True, False])] * 2,
            "items are told by their ids, integers or text, got True among them; of a mask",
        ),
        (torch.tensor([[False, True]] * 2), "got False among them"),
        ([[[1], [2]]] * 2, r"items are told by their ids, integers or text, got \[1\] among them"),
        ([{"1"}, {3}], "recommended items are numbers, and relevant ones text, so none is found; pass ids of one kind"),
    ],
)
def test_masks_and_ids_that_cannot_be_found_are_refused(relevant, message):
    with pytest.raises(ValueError, match=message):
        ranking_metrics(RANKED, relevant, 2)
