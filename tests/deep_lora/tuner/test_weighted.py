"""`add_weighted_adapter` against dense references: exact where it can be, the best possible rank elsewhere."""

import pytest
import torch
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, ties
from torch import Tensor

import deep_lora.tuner.weighted
from deep_lora import DeepLoraConfig
from tests.models import Mixed, Nest, adapt, disturb_, ids, layers_of

TARGETS = ["embedding", "square", "tall", "wide"]


def _model(ranks: tuple[int, ...] = (2, 2), targets: list[str] = TARGETS, **settings):
    """A float64 model with adapters a, b, ... of the given ranks, all with random updates."""
    names = "abcd"[: len(ranks)]
    model = adapt(Mixed().double(), "a", r=ranks[0], target_modules=targets, autocast_adapter_dtype=False, **settings)
    for name, rank in zip(names[1:], ranks[1:], strict=True):
        model.add_adapter(name, DeepLoraConfig(r=rank, target_modules=targets, **settings))
    model.double()
    disturb_(model)
    return model


def _dense(layer, name: str) -> Tensor:
    U, folded, V = layer.update(name).factors()
    return (U @ folded @ V.mT).detach().double()


def _best(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


# Roots and powers of singular values near zero cost some digits: kept well above float64's eps.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 0.3), (1.0, -1.5), (-0.5, -2.0)])
@pytest.mark.parametrize("adapters", ["ab", "abc"])
def test_cat_is_the_exact_sum_also_with_negative_weights(weights, adapters: str) -> None:
    model = _model((2, 1, 3)[: len(adapters)])
    weights = [*weights, 0.25][: len(adapters)]
    wanted = [sum(w * _dense(layer, n) for n, w in zip(adapters, weights, strict=True)) for layer in layers_of(model)]
    model.add_weighted_adapter(list(adapters), weights, "sum", combination_type="cat")
    assert model.peft_config["sum"].r == sum((2, 1, 3)[: len(adapters)])
    for layer, dense in zip(layers_of(model), wanted, strict=True):
        rank = min(model.peft_config["sum"].r, *dense.shape)
        assert torch.allclose(_dense(layer, "sum"), _best(dense, rank), **CLOSE)
        assert torch.allclose(_dense(layer, "sum"), dense, **CLOSE)


@pytest.mark.parametrize("rank", [1, 2, 3, 6])
@pytest.mark.parametrize("subtract_start", [True, False])
def test_svd_is_the_best_approximation_of_its_rank(rank: int, subtract_start: bool) -> None:
    model = _model((2, 3), subtract_start=subtract_start, init_scale=0.05)
    wanted = [0.6 * _dense(layer, "a") - 0.8 * _dense(layer, "b") for layer in layers_of(model)]
    model.add_weighted_adapter(["a", "b"], [0.6, -0.8], "new", combination_type="svd", svd_rank=rank)
    for layer, dense in zip(layers_of(model), wanted, strict=True):
        assert layer.r["new"] == rank
        assert torch.allclose(_dense(layer, "new"), _best(dense, rank), **CLOSE)


def test_linear_keeps_the_common_rank_and_a_single_adapter_is_copied() -> None:
    model = _model((3, 3))
    dense = [_dense(layer, "a") + _dense(layer, "b") for layer in layers_of(model)]
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "both", combination_type="linear")
    model.add_weighted_adapter(["a"], [2.0], "twice", combination_type="linear")
    for layer, total in zip(layers_of(model), dense, strict=True):
        assert torch.allclose(_dense(layer, "both"), _best(total, 3), **CLOSE)
        assert torch.allclose(_dense(layer, "twice"), 2 * _dense(layer, "a"), **CLOSE)


def test_svd_takes_the_largest_rank_by_default() -> None:
    model = _model((2, 4))
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "new")
    assert model.peft_config["new"].r == 4


@pytest.mark.parametrize(("depth", "version"), [(1, 3), (2, 3), (3, 3), (6, 3), (3, 2)])
def test_the_combination_is_exact_at_every_depth_and_in_every_format(depth: int, version: int) -> None:
    model = _model((2, 2), depth=depth, deep_lora_version=version)
    dense = [_dense(layer, "a") - _dense(layer, "b") for layer in layers_of(model)]
    model.add_weighted_adapter(["a", "b"], [1.0, -1.0], "new", combination_type="cat")
    for layer, total in zip(layers_of(model), dense, strict=True):
        assert torch.allclose(_dense(layer, "new"), total, **CLOSE)


PRUNING = {
    "ties": lambda deltas, weights: ties(deltas, weights, 0.5, "total"),
    "dare_linear": lambda deltas, weights: dare_linear(deltas, weights, 0.5),
    "dare_ties": lambda deltas, weights: dare_ties(deltas, weights, 0.5, "total"),
    "magnitude_prune": lambda deltas, weights: magnitude_prune(deltas, weights, 0.5),
}


@pytest.mark.parametrize("suffix", ["", "_svd"])
@pytest.mark.parametrize("kind", PRUNING)
def test_pruned_combinations_are_those_of_peft_on_the_dense_updates(kind: str, suffix: str, monkeypatch) -> None:
    model = _model((3, 3), targets=["square"])
    (layer,) = layers_of(model)
    deltas = [_dense(layer, name).float() for name in "ab"]
    torch.manual_seed(7)
    wanted = PRUNING[kind](deltas, torch.tensor([0.7, 0.5]))
    original = getattr(deep_lora.tuner.weighted, kind)

    def seeded(*args):  # the same random mask, whatever else drew random numbers before
        torch.manual_seed(7)
        return original(*args)

    monkeypatch.setattr(deep_lora.tuner.weighted, kind, seeded)
    model.add_weighted_adapter(["a", "b"], [0.7, 0.5], "new", combination_type=kind + suffix, density=0.5)
    got = _dense(layer, "new")
    assert layer.r["new"] == 3
    assert (got - _best(wanted.double(), 3)).norm() <= 1e-5 * wanted.norm()  # a float32 SVD


def test_the_new_adapter_is_frozen_ready_and_can_be_saved(tmp_path) -> None:
    model = _model((2, 2))
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "new", combination_type="cat")
    assert not [name for name, p in model.named_parameters() if name.endswith(".new") and p.requires_grad]
    model.set_adapter("new")
    together = model(ids())
    model.save_pretrained(str(tmp_path), selected_adapters=["new"])
    model.load_adapter(str(tmp_path / "new"), "again", autocast_adapter_dtype=False)
    model.set_adapter("again")
    assert torch.allclose(model.eval()(ids()), together, rtol=1e-12, atol=1e-12)
    model.base_model.set_adapter(["a", "b"])
    assert torch.allclose(model(ids()), together, rtol=1e-8, atol=1e-8)


def test_an_existing_name_is_left_as_it_is() -> None:
    model = _model((2, 2))
    before = _dense(layers_of(model)[0], "b")
    model.add_weighted_adapter(["a"], [3.0], "b", combination_type="linear")
    assert torch.equal(_dense(layers_of(model)[0], "b"), before)


@pytest.mark.parametrize(
    "arguments,text",
    [
        ({"weights": [1.0]}, "one weight is needed for each adapter, got 1 for 2 adapters"),
        ({"adapters": ["a", "nobody"]}, "nobody"),
        ({"combination_type": "average"}, "average"),
        ({"combination_type": "linear"}, "same r"),
        ({"combination_type": "ties_svd"}, r"'ties_svd' needs a `density` in \[0, 1\], got None"),
    ],
)
def test_wrong_combinations_are_refused_and_leave_no_adapter_behind(arguments: dict, text: str) -> None:
    model = _model((2, 3))
    with pytest.raises(ValueError, match=text):
        good = {"adapters": ["a", "b"], "weights": [1.0, 1.0], "adapter_name": "new"}
        model.add_weighted_adapter(**(good | arguments))
    assert set(model.peft_config) == {"a", "b"} and "new" not in layers_of(model)[0].deep_lora_U


def test_updates_of_experts_are_refused_and_leave_no_adapter_behind() -> None:
    model = adapt(Nest(), "a", r=2, target_modules=[], target_parameters=["moe.experts"])
    with pytest.raises(ValueError, match=r"does not support targeting nn.Parameter \(problematic adapter 'a'\)"):
        model.add_weighted_adapter(["a"], [1.0], "new")
    assert set(model.peft_config) == {"a"}


@pytest.mark.parametrize("variants", [("narrow", "narrow"), ("compressed", "narrow")])
def test_other_variants_combine_into_a_compressed_adapter(variants: tuple[str, str]) -> None:
    settings = {"target_modules": TARGETS, "init_scale": 0.5, "r": 2, "depth": 3}
    model = adapt(Mixed().double(), "a", variant=variants[0], autocast_adapter_dtype=False, **settings)
    model.add_adapter("b", DeepLoraConfig(variant=variants[1], **settings))
    model.double()
    disturb_(model)
    dense = [_dense(layer, "a") + _dense(layer, "b") for layer in layers_of(model)]
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "new", combination_type="cat")
    for layer, total in zip(layers_of(model), dense, strict=True):
        assert torch.allclose(_dense(layer, "new"), total, **CLOSE)


WHOLE = {
    "modules": {"modules_to_save": ["head", "norm"]},
    "rows": {"trainable_token_indices": {"embedding": [1, 5, 9]}},
}


@pytest.mark.parametrize("order", [["a"], ["a", "b"], ["b", "a"]])
@pytest.mark.parametrize("kind", WHOLE)
def test_what_one_adapter_trains_whole_is_that_of_the_combination(kind: str, order: list[str], tmp_path) -> None:
    targets = ["square", "tall", "wide"]
    model = adapt(Mixed(), "a", r=2, target_modules=targets, init_weights=False, **WHOLE[kind])
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(0.3 * torch.randn_like(tensor))
    if "b" in order:
        model.add_adapter("b", DeepLoraConfig(r=2, target_modules=targets))  # changes nothing by itself
    with torch.no_grad():
        wanted = model(ids())
        model.add_weighted_adapter(order, [1.0] * len(order), "new", combination_type="cat")
        model.set_adapter("new")
        assert torch.allclose(model(ids()), wanted, atol=1e-5)
        if kind == "modules":  # PEFT cannot save an adapter with rows beside one that has none
            model.save_pretrained(tmp_path, selected_adapters=["new"])
            model.load_adapter(tmp_path / "new", "again")
            model.set_adapter("again")
            assert torch.allclose(model(ids()), wanted, atol=1e-5)


def test_rows_of_two_adapters_are_not_combined() -> None:
    settings = {"r": 2, "target_modules": ["square"], **WHOLE["rows"]}
    model = adapt(Mixed(), "a", **settings)
    model.add_adapter("b", DeepLoraConfig(**settings | {"trainable_token_indices": {"embedding": [2]}}))
    with pytest.raises(ValueError, match="'a' and 'b' all train rows of embeddings, which cannot be combined"):
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "new", combination_type="cat")
    assert set(model.peft_config) == {"a", "b"}
