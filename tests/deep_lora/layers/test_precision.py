"""Every precision trains, saves and loads bit for bit; compiled layers equal eager ones; derivatives are exact."""

import copy
import warnings

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deep_lora import DeepLoraConfig
from deep_lora.functional import add_low_rank_update, fold_cores
from tests.models import LAYER_CASES, adapt, adapter_tensors, bert_classifier, disturb_, ids, layers_of

LABELS = torch.tensor([0, 1, 1, 0])
PRECISIONS = {
    # name: (dtype of the base model, adapters kept in float32, autocast while training)
    "float32": (torch.float32, True, False),
    "bf16": (torch.bfloat16, False, False),
    "bf16 with float32 adapters": (torch.bfloat16, True, False),
    "autocast": (torch.float32, True, True),
}


def _steps(model: nn.Module, autocast: bool, lr: float, steps: int = 12) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids(), labels=LABELS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _logits(model: nn.Module, autocast: bool) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        return model(ids()).logits


@pytest.mark.parametrize("variant", ["compressed", "narrow"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_trains_and_reloads_bit_for_bit(precision: str, variant: str, tmp_path) -> None:
    dtype, float32_adapters, autocast = PRECISIONS[precision]
    base = bert_classifier().to(dtype)
    targets = {"target_modules": ["query", "value", "dense", "word_embeddings"], "task_type": "SEQ_CLS"}
    scale = {"init_scale": 1e-3 if variant == "compressed" else 0.3, "variant": variant}
    model = adapt(copy.deepcopy(base), r=4, autocast_adapter_dtype=float32_adapters, **targets, **scale)
    wanted = torch.float32 if float32_adapters else dtype
    assert {p.dtype for p in adapter_tensors(model).values()} == {wanted}
    losses = _steps(model, autocast, lr=3e-3 if variant == "compressed" else 2e-2)
    assert losses[-1] < 0.9 * losses[0] and all(loss == loss for loss in losses)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path), autocast_adapter_dtype=float32_adapters)
    ours, theirs = adapter_tensors(model), adapter_tensors(again.eval())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(ours[name].dtype == theirs[name].dtype for name in ours)
    assert torch.equal(_logits(again, autocast), _logits(model, autocast))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_cores_are_folded_in_float32(dtype: torch.dtype) -> None:
    core = (torch.randn(3, 6, 6) / 20).to(dtype)
    exact = core[2].double() @ core[1].double() @ core[0].double()
    error = (fold_cores(core, 1.0).double() - exact).abs()
    # one rounding to the stored dtype (half a unit in the last place, or half the smallest subnormal) beyond float32's
    info = torch.finfo(dtype)
    floor = info.smallest_normal * info.eps
    assert (error <= 0.5 * info.eps * exact.abs() + floor + 1e-6 * exact.abs().max()).all()


def _layers() -> dict[str, tuple[nn.Module, Tensor]]:
    return {
        "linear": (nn.Linear(6, 5), torch.randn(2, 3, 6)),
        "gpt2": (Conv1D(5, 6), torch.randn(2, 3, 6)),
        "embedding": (nn.Embedding(9, 6), torch.randint(0, 9, (2, 5))),
        "conv2d": (nn.Conv2d(4, 6, 3, padding=1, stride=2), torch.randn(2, 4, 7, 7)),
        "conv2d groups": (nn.Conv2d(4, 6, 3, groups=2, padding_mode="reflect", padding=1), torch.randn(2, 4, 7, 7)),
    }


def _adapted(case: str, adapters: int) -> tuple[nn.Module, Tensor]:
    base, x = _layers()[case]
    model = adapt(nn.Sequential(base), r=4, target_modules=["0"], fan_in_fan_out=case == "gpt2")
    names = ["default", "second"][:adapters]
    for name in names[1:]:
        model.add_adapter(name, model.peft_config["default"])
    disturb_(model)
    model.base_model.set_adapter(names)
    return layers_of(model)[0], x


@pytest.mark.parametrize("adapters", [1, 2])
@pytest.mark.parametrize("case", _layers())
def test_a_compiled_layer_has_no_graph_break_and_equals_the_eager_one(case: str, adapters: int) -> None:
    layer, x = _adapted(case, adapters)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for function in (layer, compiled):
        layer.zero_grad()
        output = function(x)
        output.square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        assert len(gradients) >= 3 * adapters
        results.append((output.detach(), gradients))
    (eager, eager_gradients), (fast, fast_gradients) = results
    # the same operations, perhaps in another order: a few roundings of sums of at most 100 terms
    assert torch.allclose(eager, fast, rtol=1e-5, atol=1e-5 * eager.abs().max().item())
    assert eager_gradients.keys() == fast_gradients.keys()
    for name, gradient in eager_gradients.items():
        assert torch.allclose(gradient, fast_gradients[name], rtol=1e-4, atol=1e-5 * gradient.abs().max().item()), name


@pytest.mark.parametrize("case", ["linear", "embedding", "conv2d"])
def test_a_compiled_layer_trains_like_the_eager_one(case: str) -> None:
    outputs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        layer, x = _adapted(case, 1)
        torch._dynamo.reset()
        function = torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer
        optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            function(x).square().mean().backward()
            optimizer.step()
        outputs.append(function(x).detach())
    assert torch.allclose(*outputs, rtol=1e-4, atol=1e-5)  # three float32 steps


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_derivative_of_the_linear_update_is_exact(depth: int) -> None:
    U, V = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    core = (torch.randn(depth, 3, 3, dtype=torch.float64) / 2).requires_grad_()
    x, result = (torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (4, 5))

    def update(result: Tensor, x: Tensor, U: Tensor, core: Tensor, V: Tensor) -> Tensor:
        return add_low_rank_update(result, x @ V, fold_cores(core, 1.5, torch.tensor(0.3, dtype=torch.float64)), U)

    assert torch.autograd.gradcheck(update, (result, x, U, core, V))


@pytest.mark.parametrize("case", _layers())
def test_the_derivative_of_every_layer_is_exact(case: str) -> None:
    layer, x = _adapted(case, 1)
    layer = layer.double()
    x = x.double() if x.is_floating_point() else x
    names = [name for name, p in layer.named_parameters() if p.requires_grad]
    assert len(names) == 3

    def run(*tensors: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))

    inputs = [dict(layer.named_parameters())[name].detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("case", LAYER_CASES)
def test_an_injected_adapter_is_in_float32_as_one_that_peft_casts(case, low_memory, dtype) -> None:
    base, _, settings = LAYER_CASES[case]
    model = inject_adapter_in_model(DeepLoraConfig(r=2, **settings), base().to(dtype), low_cpu_mem_usage=low_memory)
    assert {p.dtype for p in adapter_tensors(model).values()} == {torch.float32}
    inject_adapter_in_model(DeepLoraConfig(r=2, **settings), model, "second", low_cpu_mem_usage=low_memory)
    assert {p.dtype for p in adapter_tensors(model).values()} == {torch.float32}


@pytest.mark.parametrize("case", LAYER_CASES)
def test_without_the_cast_an_adapter_has_the_precision_of_its_base(case) -> None:
    base, _, settings = LAYER_CASES[case]
    model = adapt(base().to(torch.bfloat16), r=2, autocast_adapter_dtype=False, **settings)
    assert {p.dtype for p in adapter_tensors(model).values()} == {torch.bfloat16}
    assert all(layer.at_start("default") for layer in layers_of(model))


@pytest.mark.parametrize("way", ["from_pretrained", "load_adapter", "injected"])
@pytest.mark.parametrize("case", LAYER_CASES)
def test_loading_into_empty_tensors_on_a_base_in_half_precision_rounds_nothing(case, way, tmp_path) -> None:
    base, _, settings = LAYER_CASES[case]
    source = adapt(base(), r=2, **settings)
    disturb_(source)
    source.save_pretrained(str(tmp_path))
    if way == "injected":
        model = inject_adapter_in_model(source.peft_config["default"], base().bfloat16(), low_cpu_mem_usage=True)
        state = {key.removeprefix("base_model.model."): t for key, t in get_peft_model_state_dict(source).items()}
        set_peft_model_state_dict(model, state, low_cpu_mem_usage=True)
    elif way == "from_pretrained":
        model = PeftModel.from_pretrained(base().bfloat16(), str(tmp_path), low_cpu_mem_usage=True)
    else:
        model = adapt(base().bfloat16(), "first", r=2, **settings)
        model.load_adapter(str(tmp_path), "default", low_cpu_mem_usage=True)
        if not source.peft_config["default"].target_parameters:
            model.delete_adapter("first")
    ours = [p for name, p in adapter_tensors(model).items() if ".default" in name]
    theirs = list(adapter_tensors(source).values())
    assert len(ours) == len(theirs)
    assert all(torch.equal(new, old) for new, old in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("where", ["adapter", "base", "autocast"])
def test_gradients_that_float16_has_lost_are_told_in_the_first_backward_pass(where: str) -> None:
    dtype = torch.float32 if where == "autocast" else torch.float16
    base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(dtype)
    model = get_peft_model(base, DeepLoraConfig(r=2), autocast_adapter_dtype=where == "base")
    x = torch.ones(4, 8, dtype=dtype)

    def backward(scale: float) -> list[str]:
        fresh = copy.deepcopy(model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with torch.autocast("cpu", torch.float16, enabled=where == "autocast"):
                output = fresh(x)
            (output * 1e-6 * scale).square().sum().backward()
        return [str(one.message) for one in caught if "all gradients of the adapter were zero" in str(one.message)]

    (text,) = backward(1.0)
    assert "scale the loss" in text
    assert not backward(2.0**20)
