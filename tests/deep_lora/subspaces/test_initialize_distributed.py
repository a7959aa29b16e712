"""Two gloo processes: each sees its share of the batch, both end with the same subspaces."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from deep_lora import initialize_subspaces_
from tests.models import adapt, bases_of, layers_of
from tests.processes import results_of_two


def small():
    """The exact route: U and V of width 2 r hold as much as the gradient."""
    torch.manual_seed(0)
    return adapt(nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 7)), target_modules=["0", "2"], r=4)


def large():
    """The sketched route, with a gradient whose rank (16 tokens) is no larger than a sketch."""
    torch.manual_seed(0)
    return adapt(nn.Sequential(nn.Linear(50, 60)), target_modules=["0"], r=8)


def batch(width, rows=16):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1))


MANY = 240  # rows whose gradient has full rank, so that factors of it lose something
ALLOWED = 4 * 50 * 60  # the bytes of the gradient of the large layer


def loss(output):
    return (output * torch.linspace(-1, 2, output.shape[-1])).sin().sum()


def initialized(model, inputs, *, calls=1, exact_bytes=0, sides="right"):
    def closure():
        for part in inputs.chunk(calls):
            loss(model(part)).backward()

    initialize_subspaces_(model, closure, seed=3, exact_bytes=exact_bytes, sides=sides)
    layers = layers_of(model)
    return [bases_of(layer) for layer in layers]


def spread_at_start(change):
    """`at_start` of a layer whose cores FSDP spreads over the ranks, after an entry of the last core has changed."""
    layer = layers_of(large())[0]
    core = layer.deep_lora_core["default"].detach()
    core[-1, 0, 1] += change
    core = distribute_tensor(core, init_device_mesh("cpu", (2,)), [Shard(0)])
    layer.deep_lora_core["default"] = nn.Parameter(core)
    return layer.at_start("default")


def compute(rank, folder):
    """One process: initialize on its half, then meet a NaN that only rank 1 sees."""
    torch.manual_seed(rank)
    results = {
        "small": initialized(small(), batch(10).chunk(2)[rank]),
        "large": initialized(large(), batch(50).chunk(2)[rank]),
        "small, both sides": initialized(small(), batch(10).chunk(2)[rank], sides="both"),
        "large, both sides": initialized(large(), batch(50).chunk(2)[rank], sides="both"),
        "formed": initialized(large(), batch(50, MANY).chunk(2)[rank], calls=3, exact_bytes=ALLOWED),
        "sketched": initialized(large(), batch(50, MANY).chunk(2)[rank], calls=3, exact_bytes=ALLOWED - 1),
    }
    results["at start"] = [spread_at_start(0.0), spread_at_start(1e-6)]
    model, inputs = small(), batch(10)
    try:
        initialize_subspaces_(model, lambda: loss(model(inputs * (float("nan") if rank else 1.0))).backward())
        results["error"] = "none"
    except ValueError as error:
        results["error"] = str(error)
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return results_of_two(compute, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("route", ["small", "large", "small, both sides", "large, both sides", "formed", "sketched"])
def test_both_ranks_end_with_the_same_bits(ranks, route):
    assert len(ranks[0][route]) > 0
    for mine, theirs in zip(ranks[0][route], ranks[1][route], strict=True):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])


def test_both_ranks_agree_on_whether_an_adapter_that_is_spread_over_them_was_trained(ranks):
    assert ranks[0]["at start"] == ranks[1]["at start"] == [True, False]


@pytest.mark.parametrize(("route", "make", "width"), [("small", small, 10), ("large", large, 50)])
@pytest.mark.parametrize(("sides", "name"), [("right", ""), ("both", ", both sides")], ids=["right", "both"])
def test_two_halves_give_what_one_process_finds_on_the_whole_batch(ranks, route, make, width, sides, name):
    alone = initialized(make(), batch(width), sides=sides)
    for (u, v), (u2, v2) in zip(alone, ranks[0][route + name], strict=True):
        # The same subspaces, column by column up to a rotation. 100 terms of float32 over a gap above a tenth.
        assert (u @ v.mT - u2 @ v2.mT).norm().item() <= 100 * torch.finfo(torch.float32).eps / 0.1


def distance(mine, theirs):
    (u, v), (u2, v2) = mine[0], theirs[0]
    return (u @ v.mT - u2 @ v2.mT).norm().item()


def test_formed_gradients_do_not_depend_on_how_batches_are_split_over_calls_and_processes(ranks):
    alone = initialized(large(), batch(50, MANY), exact_bytes=ALLOWED)
    five_calls = initialized(large(), batch(50, MANY), calls=5, exact_bytes=ALLOWED)
    # Rounding of float32 over the gap between the last direction taken and the next, some percents.
    assert distance(alone, ranks[0]["formed"]) <= 1e-4 and distance(alone, five_calls) <= 1e-4
    assert distance(alone, ranks[0]["sketched"]) >= 1e-2, "one byte less, and the sum is approximate"


def test_a_nan_on_one_rank_is_an_error_on_all(ranks):
    assert all("not finite (NaN or inf) at base_model.model.0" in results["error"] for results in ranks)
