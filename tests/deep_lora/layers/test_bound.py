"""`max_update_norm`: what the bounded update is, that it is the same everywhere, and what happens at the edges."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn

from deep_lora import DeepLoraLayer, to_lora
from deep_lora.functional import bound_factor
from tests.models import LAYER_CASES, LINEAR, Mixed, adapt, disturb_, ids, layers_of, llama

BOUND = 0.5
CASES = LAYER_CASES | {
    "narrow": (Mixed, ids(), {"target_modules": LINEAR, "variant": "narrow", "init_scale": 0.5}),
    "tied": (
        lambda: llama(tie_word_embeddings=True), ids(),
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "ensure_weight_tying": True},
    ),
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _adapted(name: str, **settings) -> tuple[PeftModel, Tensor]:
    torch.manual_seed(0)
    make, x, targets = CASES[name]
    x = x.double() if x.is_floating_point() else x
    return adapt(make().double(), r=4, autocast_adapter_dtype=False, **(targets | settings)).double().eval(), x


def _out(model: nn.Module, x: Tensor) -> Tensor:
    output = model(x)
    return getattr(output, "logits", output)


def _matrices(layer: DeepLoraLayer, tensor: Tensor) -> Tensor:
    """(matrices, rows, columns): one for each expert, a convolution's weight with its patches as columns."""
    return tensor if getattr(layer, "num_experts", None) else tensor.flatten(1)[None]


def _expected(layer: DeepLoraLayer, update: Tensor) -> Tensor:
    """The definition, from dense matrices and their singular values."""
    weights = _matrices(layer, layer.get_base_weight())
    bounds = BOUND * torch.linalg.svdvals(weights).square().mean(-1).sqrt()
    norms = torch.linalg.matrix_norm(_matrices(layer, update))
    factors = 1 / torch.sqrt(1 + (norms / bounds) ** 2)
    return (_matrices(layer, update) * factors[:, None, None]).reshape(update.shape)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [0.1, 10.0])
def test_the_update_is_divided_by_the_root_of_one_plus_its_squared_norm_in_units_of_the_bound(
    name: str, size: float
) -> None:
    (bounded, _), (free, _) = _adapted(name, max_update_norm=BOUND), _adapted(name)
    for model in (bounded, free):
        disturb_(model, scale=size)
    for ours, without in zip(layers_of(bounded), layers_of(free), strict=True):
        expected = _expected(without, without.get_delta_weight("default"))
        torch.testing.assert_close(ours.get_delta_weight("default"), expected)


@pytest.mark.parametrize("name", CASES)
def test_outputs_merging_and_export_agree_on_the_bounded_update(name: str) -> None:
    model, x = _adapted(name, max_update_norm=BOUND)
    base = _out(model, x).detach()
    disturb_(model, scale=10.0)
    with torch.no_grad():
        outputs = _out(model, x)
        assert (outputs - base).abs().max() > 1e-3
        config, state = to_lora(model)
        model.merge_adapter()
        torch.testing.assert_close(_out(model, x), outputs)
        model.unmerge_adapter()
        exported = get_peft_model(model.unload(), config, autocast_adapter_dtype=False)
        set_peft_model_state_dict(exported, state)
        # the export is written in float32
        torch.testing.assert_close(_out(exported.double().eval(), x), outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name != "narrow"])
def test_a_fresh_bounded_adapter_is_an_identity(name: str) -> None:
    model, x = _adapted(name, max_update_norm=BOUND)
    with model.disable_adapter():
        base = _out(model, x)
    assert torch.equal(_out(model, x), base)


def test_the_norm_stays_below_the_bound_and_the_direction_is_kept_at_any_size() -> None:
    model, _ = _adapted("linear", max_update_norm=BOUND)
    disturb_(model)
    layer = layers_of(model)[1]
    direction = layer.get_delta_weight("default") / layer.get_delta_weight("default").norm()
    limit = BOUND * layer.get_base_weight().norm() / 8**0.5
    with torch.no_grad():
        for _ in range(40):  # to sizes whose squares leave float32, the accuracy of none of which is needed
            layer.deep_lora_U["default"].mul_(3.0)
            update = layer.get_delta_weight("default")
            assert update.norm() <= limit * (1 + 1e-9)
            torch.testing.assert_close(update / update.norm(), direction)
    torch.testing.assert_close(update.norm(), limit)


def test_the_gradient_is_that_of_the_definition() -> None:
    torch.manual_seed(0)
    U, folded, V = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(5, 2), (2, 2), (4, 2)])
    bound = torch.full((1, 1), 0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda u, f, v: bound_factor(u, f, v, bound), (U, folded, V))
    zero = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)  # the start: gradients are finite, and zero
    for gradient in torch.autograd.grad(bound_factor(U, zero, V, bound).sum(), (U, zero, V)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("is_trainable", [False, True])
@pytest.mark.parametrize("name", ["linear", "experts", "tied"])
def test_a_saved_adapter_keeps_its_bound_whatever_the_weights_it_is_loaded_on(
    name: str, is_trainable: bool, low_cpu_mem_usage: bool, tmp_path
) -> None:
    model, x = _adapted(name, max_update_norm=BOUND)
    disturb_(model, scale=10.0)
    model.save_pretrained(str(tmp_path))
    updates = [layer.get_delta_weight("default") for layer in layers_of(model)]
    other = _adapted(name)[0].unload()
    for parameter in other.parameters():
        parameter.data.mul_(2)
    loaded = PeftModel.from_pretrained(
        other, str(tmp_path), is_trainable=is_trainable, low_cpu_mem_usage=low_cpu_mem_usage,
        autocast_adapter_dtype=False,
    )  # fmt: skip
    for layer, update in zip(layers_of(loaded.double()), updates, strict=True):
        torch.testing.assert_close(layer.get_delta_weight("default"), update)


def test_an_adapter_of_a_weight_that_is_zero_is_not_bounded() -> None:
    base = nn.Sequential(nn.Linear(6, 6, bias=False))
    base[0].weight.data.zero_()
    model = adapt(base, r=2, target_modules=["0"], max_update_norm=BOUND, init_weights=False)
    free = adapt(nn.Sequential(nn.Linear(6, 6, bias=False)), r=2, target_modules=["0"])
    free.load_state_dict({k: v for k, v in model.state_dict().items() if "bound" not in k}, strict=False)
    update = layers_of(model)[0].get_delta_weight("default")
    assert update.norm() > 0
    torch.testing.assert_close(update, layers_of(free)[0].get_delta_weight("default"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_float32_and_trains(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 64, bias=False)).to(dtype)
    base[0].weight.data.fill_(8.0)  # 64 x 64 squares of it leave the range of float16
    model = adapt(base, r=2, target_modules=["0"], max_update_norm=BOUND, autocast_adapter_dtype=False)
    layer = layers_of(model)[0]
    assert layer.deep_lora_bound["default"].item() == BOUND * 64 * 8 / 64**0.5
    model(torch.ones(2, 64, dtype=dtype)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert layer.deep_lora_core["default"].grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["Linear4bit", "Linear8bitLt"])
def test_a_quantised_weight_is_measured_by_its_values(kind: str) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    plain = nn.Linear(128, 64, bias=False)
    settings = {"has_fp16_weights": False} if kind == "Linear8bitLt" else {"quant_type": "nf4"}
    base = nn.Sequential(getattr(bnb.nn, kind)(128, 64, bias=False, **settings))
    base.load_state_dict({"0.weight": plain.weight.data})
    base.is_loaded_in_8bit, base.is_loaded_in_4bit = kind == "Linear8bitLt", kind == "Linear4bit"
    model = adapt(base.to("cpu"), r=2, target_modules=["0"], max_update_norm=BOUND)
    bound = layers_of(model)[0].deep_lora_bound["default"].item()
    assert bound == pytest.approx(BOUND * plain.weight.norm().item() / 8, rel=0.05)  # rounding to 4 bits changes W


def test_a_base_on_the_meta_device_gives_a_bound_that_is_there_too() -> None:
    with torch.device("meta"):
        base = nn.Sequential(nn.Linear(6, 6))
    (layer,) = layers_of(adapt(base, r=2, target_modules=["0"], max_update_norm=BOUND))
    assert layer.deep_lora_bound["default"].is_meta and layer.deep_lora_U["default"].is_meta


def test_a_scale_multiplies_the_bounded_update() -> None:
    model, _ = _adapted("linear", max_update_norm=BOUND)
    disturb_(model, scale=10.0)
    layer = layers_of(model)[0]
    update = layer.get_delta_weight("default")
    layer.set_scale("default", 3.0)
    torch.testing.assert_close(layer.get_delta_weight("default"), 3 * update)


def test_bounded_adapters_are_combined_exactly() -> None:
    model, _ = _adapted("linear", max_update_norm=BOUND)
    model.add_adapter("other", model.peft_config["default"])
    disturb_(model.double(), scale=10.0)
    with torch.no_grad():
        for layer in layers_of(model):
            layer.deep_lora_core["other"].add_(0.5)
    model.add_weighted_adapter(["default", "other"], [2.0, -1.0], "both", combination_type="cat")
    for layer in layers_of(model.double()):
        expected = 2 * layer.get_delta_weight("default") - layer.get_delta_weight("other")
        torch.testing.assert_close(layer.get_delta_weight("both"), expected, rtol=1e-5, atol=1e-6)


def test_an_adapter_that_replaces_a_bounded_one_is_free_again() -> None:
    model, _ = _adapted("linear", max_update_norm=BOUND)
    model.delete_adapter("default")
    model.add_adapter("default", _adapted("linear")[0].peft_config["default"])
    assert all("default" not in layer.deep_lora_bound for layer in layers_of(model))
