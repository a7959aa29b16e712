"""The losses are their definitions: in float64, with duplicates, in tiles, and as transformers computes them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modality import contrastive_loss, sigmoid_loss
from modality.losses import duplicate_mask
from tests.measure import LargestTensor
from tests.modality.trainers import Pairs, clip, siglip
from tests.reference import contrastive as slow

COUNT, WIDTH, INVERSE = 7, 5, 3.0
IDS = torch.tensor([3, 1, 3, 4, 1, 3, 9])


def pairs(seed=0, count=COUNT, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, WIDTH, generator=generator, dtype=dtype).unbind()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("duplicates", ["share", "exclude"])
@pytest.mark.parametrize("ids", [None, IDS], ids=["distinct", "duplicates"])
@pytest.mark.parametrize("block_size", [None, 3])
def test_infonce_is_its_definition(ids, duplicates, smoothing, block_size) -> None:
    x, y = pairs()
    same = (torch.eye(COUNT).bool() if ids is None else duplicate_mask(ids)).numpy()
    expected = slow.contrastive(x.numpy(), y.numpy(), INVERSE, same, duplicates, smoothing)
    found = contrastive_loss(
        x, y, INVERSE, ids=ids, duplicates=duplicates, label_smoothing=smoothing, block_size=block_size
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ids", [None, IDS], ids=["distinct", "duplicates"])
@pytest.mark.parametrize("block_size", [None, 3])
def test_the_sigmoid_loss_is_its_definition(ids, block_size) -> None:
    x, y = pairs()
    same = (torch.eye(COUNT).bool() if ids is None else duplicate_mask(ids)).numpy()
    expected = slow.sigmoid(x.numpy(), y.numpy(), INVERSE, -1.5, same)
    assert sigmoid_loss(x, y, INVERSE, -1.5, ids=ids, block_size=block_size).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_a_mask_that_is_not_symmetric_is_read_by_row_for_x_and_by_column_for_y() -> None:
    x, y = pairs()
    positives = torch.rand(COUNT, COUNT) < 0.4
    expected = slow.contrastive(x.numpy(), y.numpy(), INVERSE, (positives | torch.eye(COUNT).bool()).numpy())
    before = positives.clone()
    assert contrastive_loss(x, y, INVERSE, positives=positives).item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(positives, before)


@pytest.mark.parametrize("duplicates", ["share", "exclude"])
@pytest.mark.parametrize("loss", [contrastive_loss, sigmoid_loss])
def test_tiles_and_ids_give_the_gradients_of_the_whole_and_of_the_mask(loss, duplicates) -> None:
    gradients = []
    for settings in ({"positives": duplicate_mask(IDS)}, {"ids": IDS, "block_size": 2}):
        x, y = (rows.requires_grad_() for rows in pairs())
        inverse, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (INVERSE, -1.0))
        if loss is contrastive_loss:
            loss(x, y, inverse, duplicates=duplicates, label_smoothing=0.1, **settings).backward()
            gradients.append([x.grad, y.grad, inverse.grad])
        else:
            loss(x, y, inverse, bias, **settings).backward()
            gradients.append([x.grad, y.grad, inverse.grad, bias.grad])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", ["contrastive", "sigmoid"])
def test_both_losses_are_those_of_transformers(loss) -> None:
    model = (clip() if loss == "contrastive" else siglip()).eval()
    output = model(**Pairs(6).batch(), return_loss=True)
    x, y, inverse = output.image_embeds, output.text_embeds, model.logit_scale.exp()
    found = contrastive_loss(x, y, inverse) if loss == "contrastive" else sigmoid_loss(x, y, inverse, model.logit_bias)
    torch.testing.assert_close(found, output.loss, rtol=1e-5, atol=0)


@given(st.integers(2, 9), st.floats(0.1, 50))
def test_features_that_are_all_the_same_lose_log_n(count, inverse) -> None:
    x = torch.ones(count, WIDTH, dtype=torch.float64)
    assert contrastive_loss(x, x, inverse).item() == pytest.approx(math.log(count), rel=1e-12)


@given(st.integers(0, 100))
def test_the_order_of_pairs_a_rotation_and_the_norms_do_not_matter(seed) -> None:
    x, y = pairs(seed)
    order = torch.randperm(COUNT)
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64)).Q
    moved = contrastive_loss(3 * x[order] @ rotation, y[order] @ rotation, INVERSE)
    assert moved.item() == pytest.approx(contrastive_loss(x, y, INVERSE).item(), rel=1e-12)
    assert contrastive_loss(y, x, INVERSE).item() == pytest.approx(contrastive_loss(x, y, INVERSE).item(), rel=1e-12)


def test_without_normalization_the_norms_count() -> None:
    x, y = pairs()
    unit = [rows / rows.norm(dim=1, keepdim=True) for rows in (x, y)]
    whole = contrastive_loss(x, y, INVERSE)
    torch.testing.assert_close(contrastive_loss(*unit, INVERSE, normalize=False), whole, rtol=1e-12, atol=0)
    assert (contrastive_loss(x, y, INVERSE, normalize=False) - whole).abs() > 0.1


def test_half_precision_features_get_a_float32_loss_also_under_autocast() -> None:
    x, y = pairs(dtype=torch.bfloat16)
    expected = contrastive_loss(x.double(), y.double(), 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrastive_loss(x, y, 100.0)
        sigmoid = sigmoid_loss(x, y, 100.0, -10.0)
    assert found.dtype == sigmoid.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_tiles_keep_no_square_matrix() -> None:
    x, y = torch.randn(2, 512, 4, requires_grad=True).unbind()
    with LargestTensor(x, y) as largest:
        contrastive_loss(x, y, INVERSE, ids=torch.arange(512), block_size=32).backward()
    assert largest.numel == 32 * 512


def test_a_tau_in_the_place_of_its_inverse_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="an inverse temperature of 0.07 .*pass 1 / tau, 14.29"):
        contrastive_loss(torch.eye(3), torch.eye(3), 0.07)
