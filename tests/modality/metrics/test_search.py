"""NDCG, reciprocal ranks, zero-shot accuracy: their definitions, with ties and several right answers."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
import torch
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from modality import LinearAlignment, modality_gap, recall_at_k, search_metrics, zero_shot_accuracy
from modality.losses.objective import ContrastiveObjective
from modality.metrics import margin, pairwise_gaps
from tests.reference.contrastive import unit

RNG = np.random.default_rng(0)
QUERIES, POOL = RNG.normal(size=(20, 5)), RNG.normal(size=(60, 5))
QUERY_IDS = np.arange(20) % 15
POOL_IDS = np.concatenate([np.arange(15), RNG.integers(0, 30, 45)])
COSINES = unit(QUERIES) @ unit(POOL).T
RIGHT = QUERY_IDS[:, None] == POOL_IDS[None]


def sorted_right(row):
    """Whether each candidate is right, from the nearest on."""
    return RIGHT[row][np.argsort(-COSINES[row], kind="stable")]


@pytest.mark.parametrize("block_size", [7, 1000])
def test_search_is_its_definitions_and_ndcg_that_of_scikit_learn(block_size) -> None:
    ks = (1, 5, 10, 500)
    found = search_metrics(QUERIES, POOL, QUERY_IDS, POOL_IDS, ks, block_size=block_size)
    firsts = [int(np.argmax(sorted_right(row))) for row in range(20)]
    assert found["pool"] == 60 and found["median_rank"] == np.median(firsts) + 1
    assert found["mrr"] == pytest.approx(np.mean([1 / (1 + first) for first in firsts]))
    for k in ks:
        assert found[f"recall@{k}"] == np.mean([first < k for first in firsts])
        assert found[f"ndcg@{k}"] == pytest.approx(ndcg_score(RIGHT.astype(float), COSINES, k=k))


@pytest.mark.parametrize("kind", [torch.tensor, np.ndarray.tolist, lambda rows: rows.astype(np.float32)])
def test_features_may_be_tensors_arrays_or_lists(kind) -> None:
    found = search_metrics(kind(QUERIES), kind(POOL), QUERY_IDS.tolist(), torch.tensor(POOL_IDS))
    expected = search_metrics(QUERIES, POOL, QUERY_IDS, POOL_IDS)
    assert found == pytest.approx(expected, abs=1e-6)
    assert search_metrics(kind(QUERIES), POOL, QUERY_IDS, POOL_IDS) == pytest.approx(expected, abs=1e-6)


def test_ids_may_be_integers_of_any_kind() -> None:
    ids = np.array([255, 7], dtype=np.uint8)  # 255 is not the unknown id -1
    for kind in (ids, ids.astype(np.uint64), torch.tensor(ids, dtype=torch.uint8)):
        assert search_metrics(QUERIES[:2], QUERIES[:2], kind, kind, ks=(1,))["recall@1"] == 1
        assert recall_at_k(QUERIES[:2], QUERIES[:2], (1,), x_ids=kind, y_ids=kind)["x_to_y_recall@1"] == 1
        assert recall_at_k(QUERIES[:2], QUERIES[:2], (1,), x_ids=kind)["x_to_y_recall@1"] == 1


def test_right_answers_come_last_among_equals() -> None:
    same = torch.ones(4, 3)
    found = search_metrics(same[:1], same, [1], [0, 1, 0, 1], ks=(1, 2, 3, 4))
    assert [found[f"recall@{k}"] for k in (1, 2, 3, 4)] == [0, 0, 1, 1]
    best, third, fourth = 1 + 1 / math.log2(3), 1 / math.log2(4), 1 / math.log2(5)
    assert found["ndcg@3"] == pytest.approx(third / best) and found["ndcg@4"] == pytest.approx((third + fourth) / best)
    assert found["mrr"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("count", [1025, 1026, 1027])
def test_equals_stay_equal_in_a_short_last_block(count: int) -> None:
    for seed in range(6):
        row = torch.randn(384, generator=torch.Generator().manual_seed(seed))
        rows, ids = row.expand(count, -1), torch.arange(count)
        found = search_metrics(rows, rows, ids, ids, ks=(1, 5))
        assert [found[name] for name in ("recall@1", "recall@5", "ndcg@1", "ndcg@5")] == [0, 0, 0, 0]
        assert found["median_rank"] == count and found["mrr"] == pytest.approx(1 / count)
        assert recall_at_k(rows, rows, (1,), x_ids=ids, y_ids=ids)["x_to_y_recall@1"] == 0
        assert zero_shot_accuracy(rows, rows, ids)["accuracy@1"] == 0


def test_recall_both_ways_is_the_search_of_each_way() -> None:
    x_ids, y_ids = np.arange(15), np.arange(60) % 15
    found = recall_at_k(QUERIES[:15], POOL, ks=(1, 5), x_ids=x_ids, y_ids=y_ids)
    for name, way in (("x_to_y", (QUERIES[:15], POOL, x_ids, y_ids)), ("y_to_x", (POOL, QUERIES[:15], y_ids, x_ids))):
        expected = search_metrics(*way, ks=(1, 5))
        for metric in ("recall@1", "recall@5", "pool"):
            assert found[f"{name}_{metric}"] == expected[metric]


def test_ids_of_a_table_and_an_array_of_ks_do() -> None:
    owners = pandas.Series(np.arange(60) % 15, index=range(100, 160))
    expected = recall_at_k(QUERIES[:15], POOL, y_ids=owners.to_numpy())
    for ids in (owners, owners.astype(object), owners.to_numpy(object), torch.tensor(owners.to_numpy())):
        assert recall_at_k(QUERIES[:15], POOL, y_ids=ids, ks=np.array([1, 5])) == expected


def test_more_captions_than_images_need_the_rows_of_their_images_alone() -> None:
    owners = np.arange(60) % 15
    both = recall_at_k(QUERIES[:15], POOL, x_ids=np.arange(15), y_ids=owners)
    assert recall_at_k(QUERIES[:15], POOL, y_ids=owners) == both
    assert recall_at_k(POOL, QUERIES[:15], x_ids=list(owners))["x_to_y_pool"] == 15


@pytest.mark.parametrize("block_size", [7, 1000])
def test_zero_shot_accuracy_is_that_of_the_nearest_class(block_size) -> None:
    labels, classes = np.arange(60) % 4, RNG.normal(size=(4, 5))
    scores = unit(POOL) @ unit(classes).T
    found = zero_shot_accuracy(POOL, classes, labels, ks=(1, 2), block_size=block_size)
    for k in (1, 2):
        assert found[f"accuracy@{k}"] == pytest.approx(top_k_accuracy_score(labels, scores, k=k))
    recalls = [(scores[labels == c].argmax(1) == c).mean() for c in range(4)]
    assert found["mean_class_accuracy"] == pytest.approx(np.mean(recalls))
    few = zero_shot_accuracy(POOL[labels < 2], classes, labels[labels < 2])
    assert few["mean_class_accuracy"] == pytest.approx(np.mean(recalls[:2]))


def test_several_texts_of_a_class_are_averaged_on_the_sphere() -> None:
    texts = RNG.normal(size=(4, 3, 5)) * 10.0 ** RNG.integers(-2, 3, size=(4, 3, 1))
    averaged = unit(texts.reshape(12, 5)).reshape(4, 3, 5).mean(1)
    labels = np.arange(60) % 4
    assert zero_shot_accuracy(POOL, texts, labels) == zero_shot_accuracy(POOL, averaged, labels)
    assert zero_shot_accuracy(torch.ones(4, 2), torch.ones(2, 2), [0, 1, 0, 1])["accuracy@1"] == 0  # collapsed


def test_three_modalities_have_three_gaps() -> None:
    gaps = pairwise_gaps({"image": QUERIES, "text": POOL, "sound": POOL[:20]})
    assert list(gaps) == [("image", "text"), ("image", "sound"), ("text", "sound")]
    distance = np.linalg.norm(unit(QUERIES).mean(0) - unit(POOL).mean(0))
    assert gaps["image", "text"]["gap"] == pytest.approx(distance)
    assert "alignment" in gaps["image", "sound"] and "alignment" not in gaps["image", "text"]


BAD = [
    (lambda: recall_at_k(QUERIES, POOL), ValueError, "20 rows of x and 60 of y are not pairs; say what each row shows"),
    (lambda: recall_at_k(QUERIES, POOL, y_ids=POOL_IDS + 9), ValueError, "queries x_to_y have no row with their id"),
    (lambda: search_metrics(QUERIES, POOL, QUERY_IDS + 90, POOL_IDS), ValueError, "queries have no row with their"),
    (lambda: search_metrics(QUERIES, POOL[:, :4], QUERY_IDS, POOL_IDS), ValueError, "floating-point matrices of one w"),
    (lambda: search_metrics(QUERIES, ["a"], QUERY_IDS, POOL_IDS), ValueError, "with rows, got shapes .* and list"),
    (lambda: search_metrics(QUERIES[:0], POOL, [], POOL_IDS), ValueError, r"got shapes \(0, 5\) and \(60, 5\)"),
    (lambda: search_metrics(QUERIES, POOL[:0], QUERY_IDS, []), ValueError, r"got shapes \(20, 5\) and \(0, 5\)"),
    (lambda: search_metrics(QUERIES, POOL, np.array(["a"] * 20), POOL_IDS), ValueError, "number them, for example"),
    (lambda: search_metrics(QUERIES, POOL, QUERY_IDS[:3], POOL_IDS), ValueError, "20 rows need as many integer ids"),
    (lambda: search_metrics(QUERIES, POOL, QUERY_IDS, POOL_IDS, ks=(0,)), ValueError, "list of positive integers"),
    (lambda: recall_at_k(QUERIES, QUERIES, ks=5), ValueError, r"a list of positive integers, such as \[1, 5\], got 5"),
    (lambda: recall_at_k(QUERIES, QUERIES, ks=np.ones(1)), ValueError, "a list of positive integers, such as"),
    (lambda: search_metrics(QUERIES, POOL, np.array(["a"] * 20, object), POOL_IDS), ValueError, "number them, for"),
    (lambda: search_metrics(QUERIES / 0, POOL, QUERY_IDS, POOL_IDS), ValueError, "NaN or inf have no nearest"),
    (lambda: zero_shot_accuracy(POOL, QUERIES, POOL_IDS), ValueError, r"20 classes, so labels lie in \[0, 20\)"),
    (lambda: zero_shot_accuracy(POOL, QUERIES, 0 * POOL_IDS, ks=(21,)), ValueError, r"\) and k is at most that, "),
    (lambda: zero_shot_accuracy(POOL, QUERIES[:, :3], POOL_IDS), ValueError, "zero-shot accuracy compares samples"),
    (lambda: zero_shot_accuracy(POOL, ["cat", "dog"], POOL_IDS), ValueError, "`classes` must be features .K, d., one"),
    (lambda: pairwise_gaps({"image": QUERIES}), TypeError, r"pass at least two by name, .*got \['image'\]"),
    (lambda: pairwise_gaps([QUERIES, POOL]), TypeError, "gaps lie between modalities: .*got list"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=range(len(BAD)))
def test_what_does_not_fit_is_refused(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


def test_autocast_does_not_round_what_is_measured() -> None:
    """Evaluation often runs under it, and cosines in bfloat16 would have three digits and many ties."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 32, generator=generator)
    y = x + 0.8 * torch.randn(300, 32, generator=generator)
    ids, fitted = torch.arange(300), LinearAlignment.fit({"x": x, "y": y}, onto="y", penalty=0.1)
    measures = (
        lambda: search_metrics(x, y, ids, ids),
        lambda: recall_at_k(x, y),
        lambda: margin(x, y),
        lambda: zero_shot_accuracy(x, y[:20], ids % 20),
        lambda: modality_gap(x, y),
        lambda: fitted.apply("x", x).tolist(),
        lambda: LinearAlignment.fit({"x": x, "y": y}, onto="y").maps["x"].tolist(),
        lambda: ContrastiveObjective()(x, y, 20.0).logits.tolist(),
    )
    expected = [measure() for measure in measures]
    for kind in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=kind):
            assert [measure() for measure in measures] == expected
