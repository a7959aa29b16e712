"""Uses that are rare but real: they work, or are refused and leave nothing half done."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from deep_lora import DeepLoraConfig, DeepLoraLayer, initialize_subspaces_, to_lora
from deep_lora.subspaces.callback import _first_batches
from tests.models import adapt, bases_of

EPS = torch.finfo(torch.float32).eps


def square(**settings) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(nn.Sequential(nn.Linear(8, 8)), DeepLoraConfig(r=2, target_modules=["0"], **settings))


def layer_of(model: nn.Module) -> DeepLoraLayer:
    return next(module for module in model.modules() if isinstance(module, DeepLoraLayer))


@pytest.mark.parametrize(
    "arguments,text",
    [
        ({"combination_type": "ties", "density": 2.0}, r"`density` in \[0, 1\], got 2.0"),
        ({"combination_type": "ties", "density": -1.0}, r"`density` in \[0, 1\], got -1.0"),
        ({"majority_sign_method": "most"}, "`majority_sign_method` must be 'total' or 'frequency', got 'most'"),
    ],
)
def test_a_refused_combination_leaves_no_adapter_behind(arguments, text) -> None:
    model = square(init_weights=False)
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules=["0"], init_weights=False))
    with pytest.raises(ValueError, match=text):
        model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "new", **arguments)
    assert "new" not in model.peft_config and "new" not in layer_of(model).deep_lora_U


def test_a_combination_that_fails_half_way_leaves_no_adapter_behind(monkeypatch) -> None:
    def fail(*args) -> None:
        raise RuntimeError("out of memory")

    model = square(init_weights=False)
    monkeypatch.setattr("deep_lora.tuner.weighted.write_update", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.add_weighted_adapter(["default"], [1.0], "new")
    assert "new" not in model.peft_config and "new" not in layer_of(model).deep_lora_U


def test_the_full_rank_of_wide_adapters_is_not_cut_silently() -> None:
    model = square(variant="wide")
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules=["0"]))
    with pytest.raises(
        ValueError, match="variant 'wide' have full rank.*use combination_type='svd' with an `svd_rank`"
    ):
        model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "new", combination_type="cat")


@pytest.mark.parametrize("variant", ["narrow", "wide"])
def test_every_trainable_parameter_is_in_the_graph_even_without_cores(variant: str) -> None:
    model = square(variant=variant, depth=2)  # DDP refuses parameters that get no gradient
    model(torch.ones(3, 8)).sum().backward()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trainable) == 3 and all(parameter.grad is not None for parameter in trainable)


def test_a_merged_adapter_is_not_given_other_subspaces() -> None:
    model = square()
    model.merge_adapter()
    before = layer_of(model).deep_lora_U["default"].clone()
    with pytest.raises(ValueError, match="is merged in .*; call `unmerge_adapter\\(\\)` before its U and V are set"):
        initialize_subspaces_(model, lambda: model(torch.ones(3, 8)).sum().backward())
    assert torch.equal(layer_of(model).deep_lora_U["default"], before)


def test_the_forward_pass_has_a_shape_on_the_meta_device() -> None:
    model = square().to("meta")
    assert model(torch.ones(3, 8, device="meta")).shape == (3, 8)


def test_a_layer_called_by_keyword_is_initialised() -> None:
    model = square()
    report = initialize_subspaces_(model, lambda: layer_of(model)(x=torch.randn(5, 8)).square().sum().backward())
    assert len(report.initialized) == 1


def test_patterns_that_are_null_in_a_file_are_empty() -> None:
    config = DeepLoraConfig(rank_pattern=None, depth_pattern=None)
    assert config.rank_pattern == {} and config.depth_pattern == {}


def test_fan_in_fan_out_on_a_linear_layer_is_answered() -> None:
    with pytest.warns(UserWarning, match="`fan_in_fan_out=True` is ignored for torch.nn.Linear"):
        square(fan_in_fan_out=True)


def test_peeking_at_batches_does_not_move_a_generator_of_the_loader() -> None:
    def order(peek: bool) -> list[int]:
        loader = torch.utils.data.DataLoader(range(8), shuffle=True, generator=torch.Generator().manual_seed(3))
        if peek:
            assert len(list(_first_batches(loader, 2))) == 2
        return [int(batch) for batch in loader]

    assert order(peek=True) == order(peek=False)


def test_the_export_of_a_half_precision_adapter_is_exact() -> None:
    base = nn.Sequential(nn.Linear(16, 12)).bfloat16()
    config = DeepLoraConfig(r=4, target_modules=["0"], init_weights=False)
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    U, folded, V = (tensor.double() for tensor in layer_of(model).update("default").factors())
    _, tensors = to_lora(model)
    A, B = (tensors[f"base_model.model.0.lora_{name}.weight"] for name in "AB")
    exact = U @ folded @ V.T
    assert A.dtype == torch.float32
    assert (B.double() @ A.double() - exact).norm() <= 4 * EPS * exact.norm()  # A and B rounded to float32


def test_an_8_bit_float_parameter_can_be_merged_and_unmerged() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8).to(torch.float8_e4m3fn), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.float().T

    base = nn.Sequential(Scaled())
    config = DeepLoraConfig(r=2, target_modules=[], target_parameters=["0.weight"], init_weights=False)
    model = get_peft_model(copy.deepcopy(base), config)
    x = torch.randn(3, 8)
    wanted = model(x)
    model.merge_adapter()
    assert torch.equal(model(x), wanted)
    plain = base[0].weight.float()
    merged = layer_of(model).get_base_layer().weight.float()
    model.unmerge_adapter()
    weight = layer_of(model).get_base_layer().weight
    assert weight.dtype == torch.float8_e4m3fn
    # Merging rounds W + dW, and unmerging what is left, each to eight bits.
    rounding = torch.finfo(torch.float8_e4m3fn).eps / 2 * (merged.abs() + weight.float().abs())
    assert ((weight.float() - plain).abs() <= 1.01 * rounding).all()
    assert (weight.float() - plain).norm() < 0.5 * (merged - plain).norm(), "most of the update is gone"


def test_an_adapter_made_for_inference_draws_nothing_and_is_an_identity_with_orthonormal_bases() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 5))
    x, state = torch.ones(2, 6), torch.get_rng_state()
    wanted = base(x)
    model = get_peft_model(base, DeepLoraConfig(target_modules=["0"], r=2, inference_mode=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(x), wanted)
    (layer,) = (module for module in model.modules() if isinstance(module, DeepLoraLayer))
    for basis in bases_of(layer):
        assert torch.equal(basis.mT @ basis, torch.eye(2))


@pytest.mark.parametrize("targets", [["0"], "all-linear"])
def test_a_lazy_layer_has_to_be_called_first(targets) -> None:
    base = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match="a LazyLinear has no shape until it is called; call the model once"):
        adapt(base, r=2, target_modules=targets)
    x = torch.randn(3, 5)
    wanted = base(x)
    assert torch.equal(adapt(base, r=2, target_modules=targets)(x), wanted)
