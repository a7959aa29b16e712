"""One direction alone, and hard negatives: sums over rows by definition, in tiles, with duplicates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modality import contrastive_loss
from tests.reference import contrastive as slow

X, Y, NEGATIVES = (
    torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (9, 8, 7)
)
X = X[:8]
IDS = torch.tensor([0, 1, 2, 0, 3, 4, 4, -1])
SAME = ((IDS[:, None] == IDS) & (IDS >= 0)[:, None]).numpy() | np.eye(8, dtype=bool)
LONE = np.eye(8, dtype=bool)


def rows_of(scores, same, duplicates="share", smoothing=0.0):
    return [slow.row_cross_entropy(row, i, same[i], duplicates, smoothing) for i, row in enumerate(scores)]


def scores(x, y):
    return 5.0 * slow.unit(x.numpy()) @ slow.unit(y.numpy()).T


@pytest.mark.parametrize("block_size", [None, 3])
def test_one_direction_is_the_mean_of_its_rows_and_both_are_their_mean(block_size) -> None:
    ways = {"x_to_y": np.mean(rows_of(scores(X, Y), LONE)), "y_to_x": np.mean(rows_of(scores(Y, X), LONE))}
    for direction, expected in ways.items():
        found = contrastive_loss(X, Y, 5.0, direction=direction, block_size=block_size).item()
        assert found == pytest.approx(expected, rel=1e-12)
    assert contrastive_loss(X, Y, 5.0).item() == pytest.approx(sum(ways.values()) / 2, rel=1e-12)
    assert contrastive_loss(X, Y, 5.0, direction="y_to_x") == contrastive_loss(Y, X, 5.0, direction="x_to_y")


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("duplicates", ["share", "exclude"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_negatives_are_further_candidates_of_every_x_and_of_no_y(block_size, duplicates, smoothing) -> None:
    more = np.concatenate([SAME, np.zeros((8, 7), dtype=bool)], axis=1)
    forth = rows_of(scores(X, torch.cat([Y, NEGATIVES])), more, duplicates, smoothing)
    back = rows_of(scores(Y, X), SAME, duplicates, smoothing)
    settings = {"duplicates": duplicates, "label_smoothing": smoothing, "block_size": block_size}
    found = contrastive_loss(X, Y, 5.0, ids=IDS, negatives=NEGATIVES, **settings).item()
    assert found == pytest.approx((sum(forth) + sum(back)) / 16, rel=1e-12)
    same = torch.tensor(SAME)
    assert found == pytest.approx(contrastive_loss(X, Y, 5.0, positives=same, negatives=NEGATIVES, **settings).item())
    one = contrastive_loss(X, Y, 5.0, ids=IDS, negatives=NEGATIVES, direction="x_to_y", **settings).item()
    assert one == pytest.approx(np.mean(forth), rel=1e-12)


def test_negatives_get_a_gradient_that_pushes_them_away() -> None:
    x, y = X.clone(), X.clone()
    negatives = (X[:1] + 0.1).requires_grad_()
    contrastive_loss(x, y, 5.0, negatives=negatives).backward()
    step = (negatives - 0.1 * negatives.grad).detach()
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(step, X[:1]) < cosine(negatives, X[:1])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"direction": "up"}, "`direction` must be 'both', 'x_to_y' or 'y_to_x', got 'up'"),
        ({"direction": "y_to_x", "negatives": NEGATIVES}, "direction 'y_to_x' does not contrast with; swap x and y"),
        ({"negatives": NEGATIVES[:, :3]}, r"`negatives` must be rows like those of y, \(m, 5\), got \(7, 3\)"),
        ({"negatives": [1.0]}, "must be rows like those of y, .* got list"),
    ],
)
def test_what_does_not_fit_is_refused(settings, text) -> None:
    with pytest.raises(ValueError, match=text):
        contrastive_loss(X, Y, 5.0, **settings)
