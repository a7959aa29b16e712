"""What `initialize_subspaces_` writes: the closed form on the dense gradient, for every kind of layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from deep_lora import initialize_subspaces_
from deep_lora.layers.gradient import GradientOperator
from deep_lora.subspaces.sketch import ITERATIONS, OVERSAMPLING, GradientSketch, kept_width
from dmf.linalg import principal_angles
from tests.measure import LargestTensor
from tests.models import adapt, bases_of, layers_of
from tests.reference.first_gradient import product_of_bases, weight_gradient

RANK, SEED = 4, 11
BOTH_CONSTRUCTIONS = pytest.mark.parametrize("sides", ["both", "right"])


def loss(output):
    """A loss whose gradient is the same in every run and has no symmetry."""
    weights = torch.linspace(-1.0, 2.0, output[0].numel()).reshape(output[0].shape).to(output)
    return (output * weights).sin().sum()


def written(layer, adapter_name="default"):
    """`U V^T`, which determines both subspaces and how they are paired."""
    U, V = bases_of(layer, adapter_name)
    return U.double() @ V.double().mT


def check(base, inputs, sides, layout=lambda g: g, rank=RANK):
    """Adapt module "0" of `base`, initialize it, and compare with the closed form on the dense gradient."""
    expected, tolerance = product_of_bases(layout(weight_gradient(base, "0.weight", inputs, loss)), rank, SEED, sides)
    model = adapt(copy.deepcopy(base), target_modules=["0"], r=rank)
    report = initialize_subspaces_(model, lambda: loss(model(inputs)).backward(), seed=SEED, sides=sides, exact_bytes=0)
    assert report.initialized == ["base_model.model.0"] and report.kept_random == []
    (layer,) = layers_of(model)
    assert (written(layer) - expected).norm().item() <= tolerance
    with torch.no_grad():
        assert torch.equal(model(inputs), base(inputs)), "a fresh adapter stays an exact identity"
    return layer


@pytest.mark.parametrize(("into", "out"), [(8, 8), (7, 12), (12, 7), (40, 40), (24, 60), (60, 24)])
@pytest.mark.parametrize(("sides", "rank"), [("both", 4), ("right", 4), ("right", 3)])
def test_linear_gets_the_closed_form_of_its_dense_gradient(into, out, sides, rank):
    base = nn.Sequential(nn.Linear(into, out), nn.Tanh(), nn.Linear(out, 3))
    layer = check(base, torch.randn(5, 3, into), sides, rank=rank)
    U, V = bases_of(layer)
    basis = V if sides == "right" or out <= into else U
    assert torch.allclose(basis.mT @ basis, torch.eye(rank), atol=1e-5)


def test_all_directions_come_from_the_right_side_unless_another_is_named():
    base, inputs, products = nn.Sequential(nn.Linear(7, 12), nn.Tanh()), torch.randn(9, 7), []
    for options in ({}, {"sides": "right"}, {"sides": "both"}):
        model = adapt(copy.deepcopy(base), target_modules=["0"], r=RANK)
        initialize_subspaces_(model, lambda model=model: loss(model(inputs)).backward(), **options, exact_bytes=0)
        products.append(written(layers_of(model)[0]))
    assert torch.equal(products[0], products[1]) and (products[0] - products[2]).norm() > 0.1


def test_a_layer_without_so_many_right_vectors_keeps_its_random_start():
    model = adapt(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), target_modules=["0", "2"], r=4)

    def closure():
        loss(model(torch.randn(9, 8))).backward()

    with pytest.warns(UserWarning, match="no gradient reached 1 of 2 adapted modules .or they are too small"):
        report = initialize_subspaces_(model, closure, exact_bytes=0)
    assert report.kept_random == ["base_model.model.2"]
    assert initialize_subspaces_(model, closure, sides="both", exact_bytes=0).kept_random == [], (
        "two of either side are there"
    )


@pytest.mark.parametrize(("into", "out"), [(9, 13), (13, 9)])
@BOTH_CONSTRUCTIONS
def test_conv1d_gets_the_closed_form_of_its_dense_gradient(into, out, sides):
    base = nn.Sequential(Conv1D(out, into), nn.Tanh())
    nn.init.normal_(base[0].weight)  # its own start is so small that the gradient is nearly of rank one
    check(base, torch.randn(6, into), sides, layout=lambda g: g.mT)


@pytest.mark.parametrize(("count", "dim"), [(11, 7), (7, 11), (50, 30)])
@pytest.mark.parametrize("padding_idx", [None, 0, 3])
@BOTH_CONSTRUCTIONS
def test_embedding_gets_the_closed_form_of_its_dense_gradient(count, dim, padding_idx, sides):
    inputs = torch.randint(0, count, (4, 6))
    inputs[0, :3] = torch.tensor([0, 3, 3])  # padding, and a token that occurs twice
    base = nn.Sequential(nn.Embedding(count, dim, padding_idx=padding_idx), nn.Tanh())
    layer = check(base, inputs, sides, layout=lambda g: g.mT)
    if padding_idx is not None and count >= dim:
        G = weight_gradient(nn.Sequential(layer.base_layer, nn.Tanh()), "0.weight", inputs, loss)
        assert G[padding_idx].norm() == 0, "padding has no gradient, so the reference covers it"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1},
        {"groups": 2},
        {"groups": 4, "stride": (2, 1), "bias": False},
        {"dilation": 2, "padding": "same"},
        {"kernel_size": (3, 2), "padding": "same"},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": (1, 2), "padding_mode": "circular", "groups": 2},
    ],
)
@BOTH_CONSTRUCTIONS
def test_conv2d_gets_the_closed_form_of_its_dense_gradient(settings, sides):
    base = nn.Sequential(nn.Conv2d(4, 8, **{"kernel_size": 3, **settings}), nn.Tanh())
    check(base, torch.randn(3, 4, 9, 10), sides, layout=lambda g: g.flatten(1))


@BOTH_CONSTRUCTIONS
def test_an_unbatched_image_is_one_image(sides):
    check(nn.Sequential(nn.Conv2d(4, 6, 3), nn.Tanh()), torch.randn(4, 9, 10), sides, layout=lambda g: g.flatten(1))


@pytest.mark.parametrize("shape", [(7, 12), (40, 40)])
@BOTH_CONSTRUCTIONS
def test_micro_batches_add_up_to_the_whole_batch(shape, sides):
    base = nn.Sequential(nn.Linear(*shape), nn.Tanh())
    inputs = torch.randn(kept_width(RANK), shape[0])  # as many tokens as triplets are kept, so that nothing is cut off
    expected, tolerance = product_of_bases(weight_gradient(base, "0.weight", inputs, loss), RANK, SEED, sides)
    model = adapt(base, target_modules=["0"], r=RANK)

    def closure():
        for half in inputs.split(3):
            loss(model(half)).backward()

    initialize_subspaces_(model, closure, seed=SEED, sides=sides, exact_bytes=0)
    (layer,) = layers_of(model)
    assert (written(layer) - expected).norm().item() <= tolerance


def test_the_sketched_route_finds_the_leading_subspaces_of_a_decaying_spectrum():
    rows, columns, rank = 300, 200, 8
    spectrum = (1 + torch.arange(200.0)) ** -0.5  # slow: real gradients decay like this
    left, right = torch.linalg.qr(torch.randn(rows, 200)).Q, torch.linalg.qr(torch.randn(columns, 200)).Q
    sketch = GradientSketch(
        rows,
        columns,
        kept_width(rank),
        rank + OVERSAMPLING,
        ITERATIONS,
        seed=0,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    assert not sketch.exact
    # As one call of a layer sees it: G = delta^T x with 200 tokens.
    sketch.update(GradientOperator.from_rows(x=right.mT * spectrum[:, None], delta=left.mT))
    for wanted in (rank // 2, rank):
        svd = sketch.leading(wanted)
        assert principal_angles(left[:, :wanted], svd.left)[0] <= 1e-2
        assert principal_angles(right[:, :wanted], svd.right)[0] <= 1e-2


def test_the_exact_route_is_taken_where_the_gradient_is_no_larger_than_its_factors():
    def exact(rows, columns):
        options = {"seed": 0, "dtype": torch.float32, "device": torch.device("cpu")}
        return GradientSketch(rows, columns, 16, 16, ITERATIONS, **options).exact

    assert exact(32, 32) and exact(16, 10**6) and not exact(33, 33) and not exact(17, 10**6)


def largest_tensor(base, inputs, rank):
    """Elements of the largest tensor made while module "0" is initialized, its own weight aside."""
    model = adapt(nn.Sequential(base), target_modules=["0"], r=rank)
    with LargestTensor(base.weight) as largest:
        report = initialize_subspaces_(model, lambda: loss(model(inputs)).backward(), exact_bytes=0)
    assert len(report.initialized) == 1
    return largest.numel


def test_a_large_linear_layer_costs_factors_only():
    # A Krylov basis of a few blocks; 500 * 600 would be the weight.
    assert (
        0
        < largest_tensor(nn.Linear(600, 500), torch.randn(20, 600), rank=8)
        <= (ITERATIONS + 1) * (8 + OVERSAMPLING) * 600
    )


def test_a_large_embedding_costs_factors_only():
    tokens = torch.randint(0, 600, (4, 10))
    assert 0 < largest_tensor(nn.Embedding(600, 500), tokens, rank=8) <= (ITERATIONS + 1) * (8 + OVERSAMPLING) * 600


def test_a_convolution_never_unfolds_its_patches():
    unfolded = 2 * (16 * 5 * 5) * 26 * 26
    assert 0 < largest_tensor(nn.Conv2d(16, 32, 5), torch.randn(2, 16, 30, 30), rank=8) <= unfolded // 4


@pytest.mark.parametrize("shape", [(2000, 8), (8, 2000)])
def test_the_exact_route_makes_nothing_larger_than_the_gradient_itself(shape):
    into, out = shape
    # 2000 * 8 numbers, or the two factors, or twice a block of r columns as a complex spectrum.
    assert 0 < largest_tensor(nn.Linear(into, out), torch.randn(4, into), rank=4) <= 2 * 8 * 2000


def test_the_subspaces_follow_the_seed_alone():
    def run(seed, noise):
        torch.manual_seed(0)
        model = adapt(nn.Sequential(nn.Linear(60, 50)), target_modules=["0"], r=RANK)
        inputs = torch.randn(80, 60)
        torch.manual_seed(noise)
        initialize_subspaces_(model, lambda: loss(model(inputs)).backward(), seed=seed, exact_bytes=0)
        return written(layers_of(model)[0])

    assert torch.equal(run(seed=3, noise=1), run(seed=3, noise=2))
    assert not torch.allclose(run(seed=3, noise=1), run(seed=4, noise=1), atol=1e-2)
