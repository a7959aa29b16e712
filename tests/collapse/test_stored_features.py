"""The metrics in one call: of features and labels as people have them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas
import pytest
import torch

from collapse import ClassStatistics, nc1, nc2, nc3, neural_collapse

LABELS = torch.arange(40) % 4
FEATURES = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + torch.eye(6)[LABELS] * 3
WEIGHT = torch.eye(4, 6)
KINDS = {
    "tensors": (FEATURES, LABELS),
    "arrays": (FEATURES.numpy(), LABELS.numpy()),
    "lists": (FEATURES.tolist(), LABELS.tolist()),
    "labels of another width": (FEATURES.numpy(), LABELS.numpy().astype(np.uint16)),
    "tables": (pandas.DataFrame(FEATURES.numpy()), pandas.Series(LABELS.numpy(), index=range(40, 0, -1))),
    "sequences": (FEATURES.reshape(8, 5, 6), LABELS.reshape(8, 5)),
}


def statistics() -> ClassStatistics:
    found = ClassStatistics(4, 6)
    found.update(FEATURES, LABELS)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_labels_give_what_their_statistics_give(kind) -> None:
    features, labels = KINDS[kind]
    right = neural_collapse(statistics(), weight=WEIGHT)
    for weight in (WEIGHT, WEIGHT.numpy(), WEIGHT.tolist()):
        assert neural_collapse(features, labels, weight) == pytest.approx(right)
    alone = neural_collapse(features, labels)
    assert alone == pytest.approx({name: right[name] for name in alone}) and "nc2" not in alone
    assert nc1(features, labels) == nc1(features, labels=labels) == pytest.approx(right["nc1"])


def test_a_weight_with_classes_that_the_data_lack_still_fits() -> None:
    weight = torch.eye(5, 6)
    wide = ClassStatistics(5, 6)
    wide.update(FEATURES, LABELS)
    assert neural_collapse(FEATURES, LABELS, weight) == pytest.approx(neural_collapse(wide, weight=weight))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: neural_collapse(FEATURES), TypeError, "or features and labels, got a Tensor alone; call them with"),
        (lambda: nc1(FEATURES.numpy()), TypeError, "or features and labels, got a ndarray alone"),
        (lambda: nc1(statistics(), LABELS), TypeError, "hold their labels already; pass `labels` with features only"),
        (lambda: neural_collapse(statistics(), WEIGHT), TypeError, "and a classifier's rows by name, `weight=`"),
        (lambda: neural_collapse(FEATURES, WEIGHT), TypeError, "integer class indices, got torch.float32"),
        (
            lambda: neural_collapse(FEATURES, list("abcd" * 10)),
            TypeError,
            "labels must be .*, got list of other values",
        ),
        (
            lambda: neural_collapse(FEATURES, np.array(["cat"] * 40)),
            TypeError,
            r"number class names with `numpy.unique",
        ),
        (
            lambda: neural_collapse(FEATURES, LABELS, torch.nn.Linear(6, 4)),
            TypeError,
            "got Linear of .*, and pass the weight of a layer, not the layer",
        ),
        (lambda: neural_collapse(FEATURES / 0, LABELS), ValueError, "the features hold NaN or inf"),
        (
            lambda: neural_collapse(FEATURES, LABELS, WEIGHT.mT),
            ValueError,
            "a Linear's weight fits as it is, a",
        ),
        (lambda: neural_collapse(FEATURES, LABELS, WEIGHT / 0), ValueError, "`weight` must be a finite .classes, feat"),
        (lambda: neural_collapse(FEATURES, LABELS, WEIGHT[0]), ValueError, r"got torch.float32 of shape \(6,\)"),
        (
            lambda: neural_collapse(FEATURES[:, 0], LABELS),
            ValueError,
            r"features are rows, \(n, d\), got shape",
        ),
        (lambda: nc1(FEATURES, []), ValueError, "features need a row for each label, got shapes .* and \\(0,\\)"),
        (lambda: nc1(FEATURES, LABELS[:5]), ValueError, "labels"),
        (lambda: nc1(FEATURES, LABELS.float()), TypeError, "integer"),
        (lambda: neural_collapse(FEATURES, LABELS, torch.eye(3, 6)), ValueError, "labels"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


def test_arrays_that_cannot_be_written_to_give_no_warning_and_a_weight_may_be_an_array() -> None:
    fixed = FEATURES.numpy().copy()
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = neural_collapse(fixed, LABELS, WEIGHT)
    assert found == neural_collapse(FEATURES, LABELS, WEIGHT)
    assert (nc2(WEIGHT.numpy()), nc3(statistics(), WEIGHT.tolist())) == (found["nc2"], found["nc3"])


def test_the_label_of_ignored_pixels_is_warned_of() -> None:
    ignored = torch.where(torch.arange(40) < 8, 255, LABELS).to(torch.uint8)
    kept = ignored != 255
    with pytest.warns(
        UserWarning, match="8 samples have the label 255, and none the one before it; it counts as a class"
    ):
        assert neural_collapse(FEATURES, ignored)["nc1"] > 2 * neural_collapse(FEATURES[kept], ignored[kept])["nc1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neural_collapse(FEATURES, LABELS + 252)  # classes 252 to 255


def test_a_class_for_each_sample_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="each of the 40 classes has one sample, so nothing varies within them"):
        assert neural_collapse(FEATURES, range(40))["nc1"] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neural_collapse(FEATURES, [0, *range(39)])


def test_labels_in_another_order_and_masked_ones_are_refused() -> None:
    table, labels = pandas.DataFrame(FEATURES.numpy()), pandas.Series(LABELS.numpy())[::-1]
    text = (
        r"`features` and `labels` have the same index in different orders, .* pass `labels.loc\[features.index\]`, or"
    )
    for call in (neural_collapse, statistics().update):
        with pytest.raises(ValueError, match=text):
            call(table, labels)
    assert neural_collapse(table, labels.loc[table.index]) == neural_collapse(FEATURES, LABELS)
    with pytest.raises(
        ValueError, match="10 values of `labels` are masked, and they would count; leave these rows out"
    ):
        neural_collapse(FEATURES, np.ma.masked_equal(LABELS.numpy(), 2))
