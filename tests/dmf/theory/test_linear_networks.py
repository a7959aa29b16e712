"""Deep linear networks on data, their progressive collapse, and training with stops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from collapse import ClassStatistics
from collapse.metrics import separation_quotient
from dmf import CompressedDMF, DeepMatrixFactorization, dense_loss
from dmf.functional import orthogonal
from dmf.theory import DeepLinearNetwork, descend, invariance_residual, log_linear_fit, rho_recursion, whiten
from tests.dmf.cases import gaussian

few = settings(max_examples=30, deadline=None)
DIM, CLASSES, SAMPLES = 30, 3, 60  # 24 = 30 - 2 * 3 directions stay still


def class_data(whitened: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (the unit vector of the class)."""
    inputs = gaussian(SAMPLES, DIM, seed=0)
    targets = torch.eye(CLASSES, dtype=torch.float64)[torch.arange(SAMPLES) % CLASSES]
    return (whiten(inputs)[0] if whitened else inputs / SAMPLES**0.5), targets


def trained_network(whitened: bool, weight_decay: float, num_steps: int, init_scale: float = 0.5):
    """A network of depth 3 after descent with step 0.1 on the sum of squares, and its start."""
    inputs, targets = class_data(whitened)
    generator = torch.Generator().manual_seed(1)
    network = DeepLinearNetwork(DIM, CLASSES, init_scale=init_scale, generator=generator, dtype=torch.float64)
    start = [factor.detach().clone() for factor in network.matrix.factors]
    rate = 0.1 * targets.numel()
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, weight_decay=weight_decay / targets.numel())
    losses = [loss for _, loss in descend(lambda: dense_loss(network(inputs), targets), optimizer, num_steps)]
    assert losses[-1] < 0.7 * losses[0]
    return network, start


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_with_whitened_data_all_but_2k_singular_values_shrink_by_weight_decay_alone(weight_decay):
    num_steps, init_scale = 200, 0.5
    network, _ = trained_network(True, weight_decay, num_steps)
    # The last layer is K x d, so nothing but weight decay acts on the still directions of the hidden ones.
    expected = init_scale * (1 - 0.1 * weight_decay) ** num_steps
    for factor in list(network.matrix.factors)[:-1]:
        values = torch.linalg.svdvals(factor.detach())
        assert int(((values - expected).abs() <= 1e-12).sum()) == DIM - 2 * CLASSES


def test_without_whitening_more_singular_values_move():
    network, _ = trained_network(False, 0.0, 200)
    for factor in list(network.matrix.factors)[:-1]:
        values = torch.linalg.svdvals(factor.detach())
        assert int(((values - 0.5).abs() <= 1e-6).sum()) < DIM - 2 * CLASSES - 6


def test_the_hidden_layers_move_inside_the_subspace_of_the_first_gradient():
    network, start = trained_network(True, 0.0, 200)
    inputs, targets = class_data(True)
    wide = DeepMatrixFactorization(CLASSES, DIM, init_scale=0.5, dtype=torch.float64)
    wide.load_state_dict({f"factors.{level}": factor for level, factor in enumerate(start)})
    moving = CompressedDMF.from_gradient(wide, -targets.mT @ inputs, 2 * CLASSES).right
    residual = invariance_residual(list(network.matrix.factors)[:-1], start[:-1], moving)
    assert residual.coupling.max().item() <= 1e-12 and residual.anisotropy.max().item() <= 1e-12
    assert torch.allclose(residual.rho, rho_recursion([0.5, 0.5], 0.0, 1)[-1], rtol=1e-12)


def test_on_whitened_data_the_network_trains_like_the_factorization_of_the_correlations():
    inputs, targets = class_data(True)
    network, start = trained_network(True, 0.0, 50)
    matrix = DeepMatrixFactorization(CLASSES, DIM, dtype=torch.float64)
    matrix.load_state_dict({f"factors.{level}": factor for level, factor in enumerate(start)})
    optimizer = torch.optim.SGD(matrix.parameters(), lr=0.1 * CLASSES * DIM)
    list(descend(lambda: dense_loss(matrix(), targets.mT @ inputs), optimizer, 50))
    assert torch.allclose(matrix(), network.matrix(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", [None, torch.relu])
def test_features_are_the_layers_one_after_another(activation):
    network = DeepLinearNetwork(4, 2, width=5, depth=3, init_scale=1.0, activation=activation, dtype=torch.float64)
    x = gaussian(6, 4, seed=0)
    act = activation or (lambda hidden: hidden)
    w1, w2, w3 = network.matrix.factors
    first = act(x @ w1.T)
    second = act(first @ w2.T)
    expected = [x, first, second, second @ w3.T]
    assert all(torch.equal(mine, other) for mine, other in zip(network.features(x), expected, strict=True))
    assert torch.equal(network(x), expected[-1])
    if activation is None:
        assert torch.allclose(network(x), x @ network.matrix().T)


# ---- whitening -------------------------------------------------------------------------------------------------------


@few
@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 1000))
def test_whitened_inputs_are_orthonormal_and_the_map_is_symmetric(dim, more, seed):
    inputs = gaussian(2 * dim + 2 + more, dim, seed=seed)
    white, transform = whiten(inputs)
    condition = torch.linalg.cond(inputs).item()
    assert torch.allclose(white.T @ white, torch.eye(dim, dtype=torch.float64), atol=1e-13)
    assert torch.allclose(inputs @ transform, white, rtol=0, atol=1e-14 * condition * dim * 10)
    assert torch.allclose(transform, transform.T, rtol=1e-9, atol=1e-12)


# ---- progressive collapse --------------------------------------------------------------------------------------------


def separation(features: torch.Tensor, labels: torch.Tensor) -> float:
    """tr(S_W) / tr(S_B) of one layer."""
    statistics = ClassStatistics(int(labels.max()) + 1, features.shape[1], within="trace")
    statistics.update(features.detach(), labels)
    return separation_quotient(statistics)


@few
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 4), st.integers(0, 1000))
def test_the_separation_of_classes_is_its_definition_by_loops(counts, dim, seed):
    labels = torch.tensor([k for k, count in enumerate(counts) for _ in range(count)])
    features = gaussian(len(labels), dim, seed=seed)
    overall = features.mean(0)
    means = [features[labels == k].mean(0) for k in range(len(counts))]
    within = sum(((x - means[k]) ** 2).sum() for x, k in zip(features, labels.tolist(), strict=True)) / len(labels)
    between = sum(((mean - overall) ** 2).sum() for mean in means) / len(counts)
    order = torch.randperm(len(labels))
    assert separation(features[order], labels[order]) == pytest.approx((within / between).item(), rel=1e-10)


@few
@given(st.floats(0.05, 3.0), st.floats(0.1, 20.0), st.integers(2, 9))
def test_a_geometric_sequence_is_fitted_exactly(factor, scale, layers):
    fit = log_linear_fit(scale * factor ** torch.arange(layers, dtype=torch.float64))
    assert abs(fit.factor / factor - 1) <= 1e-10 and abs(fit.scale / scale - 1) <= 1e-10
    assert abs(fit.r_squared - 1) <= 1e-6 or abs(factor - 1) < 1e-3


def test_the_fit_is_the_least_squares_line_of_the_logarithms():
    values = torch.tensor([5.0, 1.0, 2.0, 0.1], dtype=torch.float64)
    design = torch.stack([torch.arange(4.0), torch.ones(4)], dim=1).double()
    solution = torch.linalg.lstsq(design, values.log()[:, None]).solution[:, 0]
    fit = log_linear_fit(values)
    residual = values.log() - design @ solution
    explained = 1 - residual.square().sum() / (values.log() - values.log().mean()).square().sum()
    assert abs(fit.factor - solution[0].exp().item()) <= 1e-12
    assert abs(fit.scale - solution[1].exp().item()) <= 1e-12 and abs(fit.r_squared - explained.item()) <= 1e-12


def test_equal_values_are_a_line_with_factor_one():
    assert tuple(log_linear_fit(torch.tensor([2.0, 2.0]))) == pytest.approx((1.0, 2.0, 1.0))


@pytest.mark.parametrize(("depth", "init_scale", "step", "published"), [
    (4, 0.5, 10.0, 3e-2), (4, 0.25, 10.0, 5e-4), (8, 0.5, 1.0, 9e-5)
])  # fmt: skip
def test_separation_falls_by_one_factor_from_layer_to_layer_to_the_published_value(depth, init_scale, step, published):
    """5 classes of 10 samples, orthogonal inputs; last hidden layer as read off the published figures (one digit)."""
    generator = torch.Generator().manual_seed(0)
    inputs = orthogonal(50, 50, generator=generator, dtype=torch.float64)
    labels = torch.arange(5).repeat_interleave(10)
    targets = torch.eye(5, dtype=torch.float64)[labels]
    options = {"depth": depth, "init_scale": init_scale, "generator": generator, "dtype": torch.float64}
    network = DeepLinearNetwork(50, 5, width=50, **options)
    optimizer = torch.optim.SGD(network.parameters(), lr=step)
    for _, loss in descend(lambda: dense_loss(network(inputs), targets), optimizer, 5000, every=100):
        if loss < 1e-6:
            break
    assert loss < 1e-6
    collapse = torch.tensor([separation(layer, labels) for layer in network.features(inputs)[:-1]])
    assert abs(collapse[0].item() - 11.25) <= 1e-10  # (1 - 1/10) / (1/10 - 1/50)
    digit = 10.0 ** torch.tensor(published).log10().floor().item()
    assert abs(collapse[-1].item() - published) <= 0.5 * digit
    assert log_linear_fit(collapse).r_squared >= 0.999


# ---- training over several stops -------------------------------------------------------------------------------------


def quartic() -> tuple[nn.Parameter, torch.optim.SGD]:
    weights = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    return weights, torch.optim.SGD([weights], lr=0.1, momentum=0.9, weight_decay=0.1)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_descend_is_the_plain_loop_and_stops_where_it_says(every):
    weights, optimizer = quartic()
    expected = [weights.detach().clone()]
    for _ in range(7):
        optimizer.zero_grad()
        weights.pow(4).sum().backward()
        optimizer.step()
        expected.append(weights.detach().clone())
    weights, optimizer = quartic()
    steps = []
    for step, loss in descend(lambda: weights.pow(4).sum(), optimizer, 7, every=every):
        assert torch.equal(weights, expected[step]) and loss == expected[step].pow(4).sum().item()
        steps.append(step)
    assert steps == sorted({*range(0, 8, every), 7})
