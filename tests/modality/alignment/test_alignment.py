"""Alignments: their definitions, fitted on one set and applied to another, stored, and what they are good for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge

from modality import Centering, LinearAlignment, load_alignment, modality_gap, search_metrics
from modality.metrics import mean_shift
from tests.reference.contrastive import unit


def pairs(count, seed=0, width=8):
    """Images and texts of shared content, turned, each about a center of its own, with a little noise."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    turn, centers = np.linalg.qr(fixed.normal(size=(width, width)))[0], 2 * fixed.normal(size=(2, width))
    content = rng.normal(size=(count, width))
    noise = 0.05 * rng.normal(size=(2, count, width))
    return content @ turn + centers[0] + noise[0], content + centers[1] + noise[1]


TRAIN, TEST = pairs(200), pairs(60, seed=1)
FEATURES = {"image": TRAIN[0], "text": TRAIN[1]}


def test_centering_is_its_definition_with_the_means_of_the_data_it_was_fitted_to() -> None:
    centering = Centering.fit(FEATURES)
    for name, train, test in (("image", TRAIN[0], TEST[0]), ("text", TRAIN[1], TEST[1])):
        expected = unit(unit(test) - unit(train).mean(0))
        np.testing.assert_allclose(centering.apply(name, test).numpy(), expected, atol=1e-12)
        np.testing.assert_allclose(centering.apply(name, 7 * test.astype(np.float32)).numpy(), expected, atol=1e-6)
    own = [centering.apply(name, rows) for name, rows in FEATURES.items()]
    for found, shifted in zip(own, mean_shift(*TRAIN), strict=True):
        torch.testing.assert_close(found, shifted)


@pytest.mark.parametrize("penalty", [None, 0.01, 1.0])
def test_the_maps_are_those_of_scipy_and_scikit_learn(penalty) -> None:
    alignment = LinearAlignment.fit(FEATURES, "text", penalty=penalty)
    x, y = (unit(rows) - unit(rows).mean(0) for rows in TRAIN)
    if penalty is None:
        expected = orthogonal_procrustes(x, y)[0]
    else:
        strength = penalty * (x**2).sum() / x.shape[1]
        expected = Ridge(alpha=strength, fit_intercept=False).fit(x, y).coef_.T
    np.testing.assert_allclose(alignment.maps["image"].numpy(), expected, atol=1e-9)
    moved = unit((unit(TEST[0]) - unit(TRAIN[0]).mean(0)) @ expected)
    np.testing.assert_allclose(alignment.apply("image", TEST[0]).numpy(), moved, atol=1e-9)
    torch.testing.assert_close(alignment.apply("text", TEST[1]), Centering.fit(FEATURES).apply("text", TEST[1]))


def test_three_modalities_of_different_widths_meet_in_one_space() -> None:
    wide = np.concatenate([TRAIN[1], TRAIN[1] ** 2], axis=1)
    alignment = LinearAlignment.fit(FEATURES | {"sound": wide}, "text", penalty=0.1)
    assert alignment.maps["sound"].shape == (16, 8) and alignment.apply("sound", wide).shape == (200, 8)
    assert LinearAlignment.fit(FEATURES | {"sound": wide}, "text").maps["sound"].shape == (16, 8)
    assert set(Centering.fit(FEATURES | {"sound": wide}).means) == {"image", "text", "sound"}


def test_centering_closes_the_distance_of_the_means_and_the_map_what_is_left() -> None:
    alignments = Centering.fit(FEATURES), LinearAlignment.fit(FEATURES, "text")
    moved, mapped = ([a.apply(name, rows) for name, rows in zip(FEATURES, TEST, strict=True)] for a in alignments)
    before, centered, after = (modality_gap(*rows) for rows in (TEST, moved, mapped))
    sampling = (2 / len(TEST[0])) ** 0.5  # the gap of two finite samples of one distribution
    assert centered["gap"] < 1.5 * sampling < before["gap"] and after["gap"] < 1.5 * sampling
    assert after["alignment"] < 0.2 * centered["alignment"]
    ids = np.arange(60)
    plain = search_metrics(TEST[1], TEST[0], ids, ids)
    assert search_metrics(mapped[1], mapped[0], ids, ids)["recall@1"] > max(0.9, plain["recall@1"])


@pytest.mark.parametrize("make", [Centering.fit, lambda f: LinearAlignment.fit(f, "image", penalty=0.1)])
def test_a_stored_alignment_comes_back_to_the_bit(make, tmp_path) -> None:
    fitted = make(FEATURES)
    fitted.save(tmp_path / "alignment.safetensors")
    again = load_alignment(tmp_path / "alignment.safetensors")
    assert type(again) is type(fitted)
    for name, rows in zip(FEATURES, TEST, strict=True):
        assert torch.equal(again.apply(name, rows), fitted.apply(name, rows))


def stored(folder, tensors, kind):
    save_file(tensors, folder / "x", metadata=None if kind is None else {"alignment": kind})
    return load_alignment(folder / "x")


ONES = {"mean.a": torch.ones(2), "mean.b": torch.ones(2)}
BAD = [
    (lambda _: Centering.fit({"image": TRAIN[0]}), TypeError, r"two modalities by name, .* got \['image'\]"),
    (lambda _: Centering.fit(TRAIN), TypeError, "fitted to at least two modalities by name.*got tuple"),
    (lambda _: Centering.fit({"a": TRAIN[0], "b": ["x"]}), TypeError, "features of 'b' must be a floating-point"),
    (lambda _: Centering.fit({"a": TRAIN[0], "b": TRAIN[1] * np.nan}), ValueError, "features of 'b' hold NaN or inf"),
    (lambda _: Centering.fit({"a": TRAIN[0], "b": TRAIN[1][:1]}), ValueError, "'b' has 1, and at least two are"),
    (lambda _: Centering.fit(FEATURES).apply("audio", TEST[0]), ValueError, "the alignment was fitted for .*audio"),
    (lambda _: Centering.fit(FEATURES).apply(TEST[0], "image"), ValueError, "not for a .*; the name comes first"),
    (lambda _: Centering.fit(FEATURES).apply("image", TEST[0][0]), TypeError, r"`.astype\(float\)`, and pass one row"),
    (lambda _: Centering.fit(FEATURES).apply("image", TEST[0][:, :5]), ValueError, " was fitted with 8 features"),
    (lambda _: LinearAlignment.fit(FEATURES, "sound"), ValueError, "`onto` must be one of .*got 'sound'"),
    (lambda _: LinearAlignment.fit(FEATURES | {"text": TRAIN[1][:9]}, "text"), ValueError, "a map is fitted to pairs"),
    (lambda _: LinearAlignment.fit(FEATURES, "text", penalty=0), ValueError, "`penalty` must be positive, or None"),
    (lambda f: load_alignment(f / "none"), FileNotFoundError, r"none does not exist; `Centering.fit\(...\).save"),
    (lambda f: stored(f, ONES, None), ValueError, r"holds \['mean.a', 'mean.b'\] as None, which is not an alignment"),
    (lambda f: stored(f, ONES, "LinearAlignment"), ValueError, "which is not an alignment"),
    (lambda f: stored(f, ONES | {"map.c": torch.ones(2, 2)}, "LinearAlignment"), ValueError, "is not an alignment"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), BAD, ids=range(len(BAD)))
def test_what_does_not_fit_is_refused(call, error, text, tmp_path) -> None:
    with pytest.raises(error, match=text):
        call(tmp_path)


def test_another_file_is_refused(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"PK" + bytes(100))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_alignment(tmp_path / "x")


@pytest.mark.parametrize("kind", ["centering", "orthogonal", "ridge"])
def test_gradients_reach_the_rows_it_is_applied_to_and_not_those_it_was_fitted_to(kind) -> None:
    torch.manual_seed(0)
    fitted = {name: torch.randn(20, 4, dtype=torch.float64, requires_grad=True) for name in ("image", "text")}
    if kind == "centering":
        alignment = Centering.fit(fitted)
    else:
        alignment = LinearAlignment.fit(fitted, "text", penalty=0.1 if kind == "ridge" else None)
    assert not any(tensor.requires_grad for tensor in alignment.tensors().values())
    rows = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: alignment.apply("image", x), rows)
