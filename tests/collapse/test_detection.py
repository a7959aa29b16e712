"""The NCI score is its definition, and tells strangers from the samples of the classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from collapse import ClassStatistics, nci_score, simplex_vectors

RNG = np.random.default_rng(0)
TRAINING, WEIGHT, BIAS = RNG.normal(size=(30, 6)), RNG.normal(size=(4, 6)), RNG.normal(size=4)
FEATURES = RNG.normal(size=(9, 6))


def by_definition(features, training, weight, bias, alpha):
    scores = []
    for h in features:
        z = h - training.mean(0)
        c = np.argmax([w @ h + b for w, b in zip(weight, bias, strict=True)])
        scores.append(z @ weight[c] / np.sqrt(z @ z) + alpha * np.abs(h).sum())
    return scores


@pytest.mark.parametrize("alpha", [0.0, 0.05])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, np.ndarray.tolist])
def test_the_score_is_its_definition_of_arrays_tensors_and_lists(alpha, kind) -> None:
    expected = by_definition(FEATURES, TRAINING, WEIGHT, BIAS, alpha)
    found = nci_score(kind(FEATURES), kind(TRAINING), kind(WEIGHT), kind(BIAS), norm_weight=alpha)
    # Lists are read in float32.
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    without = nci_score(kind(FEATURES), kind(TRAINING), kind(WEIGHT), norm_weight=alpha)
    assert without.tolist() == pytest.approx(by_definition(FEATURES, TRAINING, WEIGHT, 0 * BIAS, alpha), abs=1e-5)


def test_statistics_of_the_training_data_do_instead_of_the_data() -> None:
    statistics = ClassStatistics(4, 6, within="trace")
    statistics.update(torch.tensor(TRAINING), torch.arange(30) % 3)  # one class has no sample, and counts differ
    torch.testing.assert_close(nci_score(FEATURES, statistics, WEIGHT), nci_score(FEATURES, TRAINING, WEIGHT))


def test_collapsed_samples_score_the_length_of_their_class_vector_and_strangers_less() -> None:
    corners = simplex_vectors(4, 16)
    training = 3 * corners.repeat(5, 1)
    scores = nci_score(3 * corners, training, corners)
    torch.testing.assert_close(scores, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)
    strangers = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    assert (nci_score(strangers, training, corners) < scores.min()).all()
    assert nci_score(training.mean(0, keepdim=True), training, corners).abs().max() < 1  # at the center: no direction
