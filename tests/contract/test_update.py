"""What an adapted model computes: an identity when fresh, the sum of its updates when trained; merging; scaling."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn

from deep_lora import DeepLoraLayer, rescale_adapter_scale, to_lora
from tests.models import (  # fmt: skip
    LAYER_CASES,
    PIXELS,
    VECTORS,
    Mixed,
    Nest,
    Pixels,
    adapt,
    bases_of,
    cores_of,
    disturb_,
    ids,
    layers_of,
)
from tests.reference.update import dense_expert_updates, dense_update

EPS = torch.finfo(torch.float64).eps


CASES = LAYER_CASES | {
    "conv2d dilated": (lambda: Pixels(groups=1), PIXELS, {"target_modules": ["first", "grouped"]}),
    "conv2d groups": (lambda: Pixels(groups=2), PIXELS, {"target_modules": ["first", "grouped"]}),
    "conv2d reflect": (lambda: Pixels(padding_mode="reflect"), PIXELS, {"target_modules": ["first"]}),
    "experts and matrix transposed": (
        lambda: Nest(True), VECTORS, {"target_modules": [], "target_parameters": ["moe.experts", "moe.matrix"]},
    ),
}  # fmt: skip


def _build(name: str, dtype: torch.dtype = torch.float64, **settings) -> tuple[nn.Module, Tensor, PeftModel]:
    torch.manual_seed(3)
    make, x, targets = CASES[name]
    base = make().to(dtype).eval()
    x = x.to(dtype) if x.is_floating_point() else x
    autocast = settings.pop("autocast_adapter_dtype", False)
    model = adapt(copy.deepcopy(base), r=4, autocast_adapter_dtype=autocast, **(targets | settings))
    return base, x, model.to(dtype) if dtype == torch.float64 else model


def _out(model: nn.Module, x: Tensor, **kwargs) -> Tensor:
    output = model(x, **kwargs)
    return getattr(output, "logits", output).detach()


def _stored_eps(layer: DeepLoraLayer, name: str = "default") -> float:
    """eps as a fresh adapter stores it, rounding included: the first diagonal entry of its first kappa * core."""
    return layer.core_scale[name] * cores_of(layer, name).flatten()[0].item()


def _reference_delta(layer: DeepLoraLayer, name: str, eps: float) -> Tensor:
    """dW of a layer in the layout of its base weight, from the raw tensors."""
    (U, V), core = bases_of(layer, name), cores_of(layer, name)
    function = dense_update if U.ndim == 2 else dense_expert_updates
    delta = function(U, core, V, kappa=layer.core_scale[name], eps=eps)
    shape = layer.get_base_weight().shape
    return delta.mT if delta.ndim == len(shape) and _stored_transposed(layer) else delta.reshape(shape)


def _stored_transposed(layer: DeepLoraLayer) -> bool:
    base = layer.get_base_layer()
    named = type(base).__name__ in ("Conv1D", "Embedding")
    return named or (getattr(base, "is_transposed", False) and layer.get_base_weight().ndim == 3)


def _written_into(model: PeftModel, base: nn.Module, names: list[str], eps: dict[DeepLoraLayer, float]) -> nn.Module:
    """A copy of the base model whose weights hold the reference updates."""
    changed = copy.deepcopy(base)
    layers = {name: m for name, m in model.get_base_model().named_modules() if isinstance(m, DeepLoraLayer)}
    assert layers
    with torch.no_grad():
        for name, layer in layers.items():
            module = changed.get_submodule(".".join(p for p in name.split(".") if p != "base_layer"))
            weight = getattr(module, getattr(layer, "parameter_name", "weight"))
            weight += sum(_reference_delta(layer, adapter, eps[layer]) for adapter in names)
    return changed


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("eps", [1e-3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_fresh_adapter_is_an_exact_identity(case: str, eps: float, dtype: torch.dtype) -> None:
    for autocast in (False, True):
        base, x, model = _build(case, dtype, init_scale=eps, autocast_adapter_dtype=autocast)
        assert torch.equal(_out(model, x), _out(base, x))
        assert not any(layer.get_delta_weight("default").any() for layer in layers_of(model))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_active_adapters_add_up_to_the_definition(case: str, count: int) -> None:
    base, x, model = _build(case, depth=2)
    names = ["default", "second", "third"][:count]
    for name in names[1:]:
        model.add_adapter(name, model.peft_config["default"])
    model = model.double()
    eps = {layer: _stored_eps(layer) for layer in layers_of(model)}
    assert all(abs(value / model.peft_config["default"].init_scale - 1) < 5e-3 for value in eps.values())  # rounded
    disturb_(model)
    model.base_model.set_adapter(names)
    wanted = _out(_written_into(model, base, names, eps), x)
    scale = wanted.abs().max().clamp(min=1.0)
    # float64, a handful of layers each summing fewer than 1000 products
    assert (_out(model, x) - wanted).abs().max() <= 1000 * EPS * scale
    assert (_out(base, x) - wanted).abs().max() > 1e-3  # the updates do matter


@pytest.mark.parametrize("eps,subtract", [(1e-3, True), (0.5, True), (0.5, False)])
@pytest.mark.parametrize("kappa", ["auto", 1.0, 3.0])
def test_the_dense_update_is_the_definition_with_and_without_its_start(eps, subtract, kappa) -> None:
    settings = {"target_modules": ["square", "tall", "wide"], "init_scale": eps, "core_scale": kappa}
    model = adapt(Mixed().double(), r=4, subtract_start=subtract, **settings).double()
    stored = {layer: _stored_eps(layer) for layer in layers_of(model)}
    disturb_(model)
    for layer in layers_of(model):
        (U, V), core = bases_of(layer), cores_of(layer)
        wanted = dense_update(U, core, V, kappa=layer.core_scale["default"], eps=stored[layer], subtract=subtract)
        error = (layer.get_delta_weight("default") - wanted).abs().max()
        assert error <= 100 * EPS * max(1.0, wanted.abs().max())  # products of 4 x 4 matrices of order one


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("names", [["default"], ["second", "default"]])
def test_merging_keeps_the_outputs_and_unmerging_restores_the_weights(case: str, names: list[str]) -> None:
    base, x, model = _build(case)
    model.add_adapter("second", model.peft_config["default"])
    model = model.double()
    disturb_(model)
    model.base_model.set_adapter(names)
    before, weights = _out(model, x), [layer.get_base_weight().clone() for layer in layers_of(model)]
    for safe in (False, True):
        model.merge_adapter(safe_merge=safe)
        assert all(layer.merged_adapters == names for layer in layers_of(model))
        tolerance = 1000 * EPS * before.abs().max().clamp(min=1.0)
        assert (_out(model, x) - before).abs().max() <= tolerance
        model.unmerge_adapter()
        for layer, weight in zip(layers_of(model), weights, strict=True):
            assert (layer.get_base_weight() - weight).abs().max() <= 8 * EPS * (1 + weight.abs().max())
        assert (_out(model, x) - before).abs().max() <= tolerance


@pytest.mark.parametrize("case", CASES)
def test_merge_and_unload_gives_a_plain_model_with_the_same_outputs(case: str) -> None:
    base, x, model = _build(case)
    disturb_(model)
    before = _out(model, x)
    plain = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    assert not any(isinstance(module, DeepLoraLayer) for module in plain.modules())
    assert set(dict(plain.named_parameters())) == set(dict(base.named_parameters()))
    assert (_out(plain, x) - before).abs().max() <= 1000 * EPS * before.abs().max().clamp(min=1.0)
    assert torch.equal(_out(model.unload(), x), _out(base, x))


@pytest.mark.parametrize("case", CASES)
def test_a_broken_adapter_is_not_merged_safely_and_the_weight_stays_untouched(case: str) -> None:
    _, _, model = _build(case)
    layer = layers_of(model)[-1]
    with torch.no_grad():
        layer.deep_lora_core["default"].fill_(float("nan"))
    weight = layer.get_base_weight().clone()
    with pytest.raises(ValueError, match="NaNs detected in the merged weights. The adapter default seems to be broken"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.get_base_weight(), weight) and not layer.merged


@pytest.mark.parametrize("case", CASES)
def test_a_disabled_adapter_leaves_the_base_model_even_if_merged(case: str) -> None:
    base, x, model = _build(case)
    disturb_(model)
    adapted = _out(model, x)
    with model.disable_adapter():
        assert torch.equal(_out(model, x), _out(base, x))
    assert torch.equal(_out(model, x), adapted) and not torch.equal(adapted, _out(base, x))
    model.merge_adapter()
    with model.disable_adapter():  # unmerges
        assert (_out(model, x) - _out(base, x)).abs().max() <= 1000 * EPS * adapted.abs().max().clamp(min=1.0)


@pytest.mark.parametrize("case", CASES)
def test_the_scaling_api_multiplies_the_update(case: str) -> None:
    _, _, model = _build(case)
    disturb_(model)
    for layer in layers_of(model):
        full = layer.get_delta_weight("default").clone()
        layer.set_scale("default", 0.5)
        assert torch.allclose(layer.get_delta_weight("default"), full / 2, rtol=8 * EPS, atol=0)
        layer.scale_layer(3.0)
        assert layer.scaling["default"] == 1.5
        layer.unscale_layer(3.0)
        assert layer.scaling["default"] == 0.5
        layer.unscale_layer()
        assert layer.scaling["default"] == 1.0 and torch.equal(layer.get_delta_weight("default"), full)
        layer.set_scale("nobody", 2.0)
        assert layer.scaling == {"default": 1.0}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_operator_of_a_layer_is_the_gradient_of_its_weight(case: str) -> None:
    _, x, model = _build(case)
    disturb_(model)
    seen: dict[DeepLoraLayer, tuple[Tensor, Tensor]] = {}

    def watch(layer: DeepLoraLayer, args: tuple[Tensor], output: Tensor) -> None:
        output.register_hook(lambda grad: seen.update({layer: (args[0].detach(), grad)}))

    shown = [layer for layer in layers_of(model) if layer.shows_gradient]
    for layer in shown:
        layer.register_forward_hook(watch)
        layer.get_base_layer().weight.requires_grad_()
    output = model(x)
    getattr(output, "logits", output).square().sum().backward()
    for layer in shown:
        (operator, wanted) = layer.gradient_operator(*seen[layer]), layer.get_base_layer().weight.grad
        wanted = wanted.mT if _stored_transposed(layer) else wanted.flatten(1)
        right, left = (torch.eye(n, dtype=torch.float64) for n in (operator.columns, operator.rows))
        for product in (operator.apply(right), operator.apply_transpose(left).mT):
            assert (product - wanted).abs().max() <= 1000 * EPS * wanted.abs().max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_layer_exports_to_the_same_outputs_or_names_what_is_in_the_way(case: str) -> None:
    base, x, model = _build(case)
    disturb_(model)
    if any(layer.export_obstacles() for layer in layers_of(model)):
        with pytest.raises(ValueError, match="which PEFT's LoRA computes differently"):
            to_lora(model)
        return
    config, tensors = to_lora(model)
    exported = get_peft_model(copy.deepcopy(base), config, autocast_adapter_dtype=False).double().eval()
    assert not set_peft_model_state_dict(exported, tensors).unexpected_keys
    assert (_out(exported, x) - _out(model, x)).abs().max() <= 1e4 * EPS * _out(model, x).abs().max()


def test_rescaling_lasts_for_its_block_even_after_an_error() -> None:
    base, x, model = _build("linear")
    disturb_(model)
    before = _out(model, x)
    with rescale_adapter_scale(model, 0.0):
        assert torch.equal(_out(model, x), _out(base, x))
    assert torch.equal(_out(model, x), before)
    with pytest.raises(KeyError), rescale_adapter_scale(model, 2.0):
        assert not torch.equal(_out(model, x), before)
        raise KeyError
    assert torch.equal(_out(model, x), before)


def test_input_and_output_dtypes_are_those_of_the_base_layer() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        base = nn.Sequential(nn.Linear(6, 4)).to(dtype)
        model = adapt(base, r=2, target_modules=["0"], init_weights=False)
        assert layers_of(model)[0].deep_lora_U["default"].dtype == torch.float32
        assert model(torch.ones(2, 6, dtype=dtype)).dtype == dtype


def test_the_padding_row_of_an_embedding_gets_no_gradient() -> None:
    model = adapt(Mixed(), r=2, target_modules=["embedding"], init_weights=False)
    x = ids()
    x[:, 0] = 0
    model(x).sum().backward()
    gradient = layers_of(model)[0].deep_lora_V["default"].grad
    assert not gradient[0].any() and gradient[x[0, 1]].any()


def test_a_scaled_embedding_scales_its_update_too() -> None:
    class Scaled(nn.Embedding):
        embed_scale = torch.tensor(3.0, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.embed_scale

    model = adapt(nn.Sequential(Scaled(11, 4)).double(), r=2, target_modules=["0"], autocast_adapter_dtype=False)
    disturb_(model)
    x = torch.arange(11)[None]
    before = _out(model, x)
    assert torch.allclose(_out(model.merge_and_unload(), x), before, rtol=100 * EPS, atol=100 * EPS)
