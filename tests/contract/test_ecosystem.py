"""Deep LoRA inside PEFT's and transformers' machinery: loading, injection, quantisation, checkpointing, status."""

import copy
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSequenceClassification,
    PeftModel,
    TaskType,
    get_layer_status,
    get_model_status,
    inject_adapter_in_model,
)
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.integrations.peft import MIN_PEFT_VERSION

from deep_lora import DeepLoraConfig
from tests.models import Mixed, Nest, Pixels, adapt, adapter_tensors, bert_classifier, disturb_, ids, layers_of, llama

PROJECTIONS = ["q_proj", "v_proj", "down_proj"]


def _out(model: nn.Module, x: Tensor | None = None) -> Tensor:
    output = model(ids() if x is None else x)
    return getattr(output, "logits", output).detach()


def _saved_llama(tmp_path, **settings) -> tuple[PeftModel, str, str]:
    """A model with a trained adapter, the folder of the base model and that of the adapter."""
    base, folder = llama(), tmp_path / "base"
    base.save_pretrained(str(folder))
    model = adapt(AutoModelForCausalLM.from_pretrained(str(folder)), r=4, target_modules=PROJECTIONS, **settings)
    disturb_(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    return model, str(folder), str(tmp_path / "adapter")


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_every_way_of_loading_gives_the_same_logits(low_cpu_mem_usage: bool, tmp_path) -> None:
    model, base, adapter = _saved_llama(tmp_path, task_type=TaskType.CAUSAL_LM)
    fresh = AutoModelForCausalLM.from_pretrained(base)
    by_hand = PeftModel.from_pretrained(fresh, adapter, low_cpu_mem_usage=low_cpu_mem_usage)
    auto = AutoPeftModelForCausalLM.from_pretrained(adapter, low_cpu_mem_usage=low_cpu_mem_usage)
    by_transformers = AutoModelForCausalLM.from_pretrained(adapter)
    loaded = AutoModelForCausalLM.from_pretrained(base)
    loaded.load_adapter(adapter)
    for other in (by_hand, auto, by_transformers, loaded):
        assert not any(p.is_meta for p in other.parameters())
        assert torch.equal(_out(other.eval()), _out(model))


def test_a_classifier_loads_with_its_head(tmp_path) -> None:
    bert_classifier().save_pretrained(str(tmp_path / "base"))
    base = type(bert_classifier()).from_pretrained(str(tmp_path / "base"))
    model = adapt(base, r=2, task_type=TaskType.SEQ_CLS, target_modules=["query"], init_weights=False)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "modules_to_save" in name).add_(1.0)
    model.save_pretrained(str(tmp_path / "adapter"))
    again = AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "adapter"))
    assert torch.equal(_out(again), _out(model))


@pytest.mark.parametrize(
    "base,x,settings",
    [
        (Mixed, ids(), {"target_modules": ["embedding", "square", "tall"]}),
        (Pixels, torch.linspace(-1, 1, 648).reshape(2, 4, 9, 9), {"target_modules": ["first", "grouped"]}),
        (Nest, torch.linspace(-1, 1, 32).reshape(4, 8), {"target_modules": [], "target_parameters": ["moe.experts"]}),
    ],
)
def test_loading_without_memory_for_a_second_copy_gives_the_same_model(base, x, settings, tmp_path) -> None:
    bare = base()
    model = adapt(copy.deepcopy(bare), r=4, **settings)
    disturb_(model)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(copy.deepcopy(bare), str(tmp_path), low_cpu_mem_usage=True)
    assert torch.equal(_out(again, x), _out(model, x))
    assert not any(p.is_meta for p in again.parameters())


@pytest.mark.skipif(
    Version(version("peft")) < Version(MIN_PEFT_VERSION),
    reason=f"this release of transformers refuses PEFT before {MIN_PEFT_VERSION} in its own add_adapter",
)
def test_transformers_can_add_switch_disable_and_save_an_adapter(tmp_path) -> None:
    model = llama()
    before = _out(model)
    model.add_adapter(DeepLoraConfig(r=2, target_modules=["q_proj"], init_weights=False), adapter_name="first")
    model.add_adapter(DeepLoraConfig(r=2, target_modules=["v_proj"], init_weights=False), adapter_name="second")
    model.set_adapter("first")
    first = _out(model)
    model.disable_adapters()
    assert torch.equal(_out(model), before)
    model.enable_adapters()
    assert torch.equal(_out(model), first) and not torch.equal(first, before)
    model.save_pretrained(str(tmp_path))
    twin = copy.deepcopy(model)
    twin.delete_adapter("first")
    twin.load_adapter(str(tmp_path), adapter_name="again")
    twin.set_adapter("again")
    assert torch.equal(_out(twin.eval()), first)


def test_injecting_into_any_module_and_moving_the_state_dict() -> None:
    base = Mixed()
    config = DeepLoraConfig(r=2, target_modules=["square"], init_weights=False)
    model = inject_adapter_in_model(config, copy.deepcopy(base))
    twin = inject_adapter_in_model(config, copy.deepcopy(base), low_cpu_mem_usage=True)
    tensors = get_peft_model_state_dict(model)
    names = {f"square.deep_lora_{name}" for name in ("U", "core", "V", "start", "settings")}
    assert set(tensors) == names  # the start is what is subtracted, as this adapter stores it
    result = set_peft_model_state_dict(twin, tensors, low_cpu_mem_usage=True)
    assert not result.unexpected_keys and torch.equal(_out(twin), _out(model))
    guided = inject_adapter_in_model(
        DeepLoraConfig(r=2, target_modules=["square", "tall"]), copy.deepcopy(base), state_dict=tensors
    )  # the state dict decides which of the targets are adapted
    assert [layer.in_features for layer in layers_of(guided)] == [8]


def test_status_names_the_method_the_adapters_and_the_device() -> None:
    model = adapt(llama(), r=2, target_modules=PROJECTIONS)
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules=PROJECTIONS))
    status, layers = get_model_status(model), get_layer_status(model)
    assert status.peft_types == {"default": "DEEP_LORA", "second": "DEEP_LORA"}
    assert status.available_adapters == ["default", "second"] and status.active_adapters == ["default"]
    assert status.enabled is True and status.merged_adapters == [] and status.num_adapter_layers == len(layers) == 6
    assert all(layer.module_type == "deep_lora.Linear" for layer in layers)
    assert layers[0].requires_grad == {"default": True, "second": False}
    model.merge_adapter()
    assert get_model_status(model).merged_adapters == ["default"]


def _bnb(model: nn.Module, bits: int) -> nn.Module:
    """The same model with quantized linear layers, as `load_in_8bit`/`load_in_4bit` make them."""
    bnb = pytest.importorskip("bitsandbytes")
    for name in ("square", "tall", "wide"):
        old = getattr(model, name)
        if bits == 8:
            new = bnb.nn.Linear8bitLt(old.in_features, old.out_features, old.bias is not None, has_fp16_weights=False)
        else:
            new = bnb.nn.Linear4bit(old.in_features, old.out_features, old.bias is not None, quant_type="nf4")
        new.load_state_dict(old.state_dict())
        setattr(model, name, new.to("cpu").requires_grad_(False))
    return model


class Wider(Mixed):
    """`Mixed` with sides that suit the block size of 4-bit weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.square = nn.Embedding(41, 64), nn.Linear(64, 64)
        self.tall, self.wide = nn.Linear(64, 128), nn.Linear(128, 6, bias=False)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_layers_forward_train_and_merge(bits: int, tmp_path) -> None:
    base = _bnb(Wider(), bits).train()  # evaluating, bitsandbytes repacks 4-bit weights and rounds otherwise
    plain = _out(base)
    model = adapt(base, r=4, target_modules=["square", "tall", "wide"]).train()
    assert model.base_model.model.square.quantization_backend is not None and torch.equal(_out(model), plain)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = (model(ids()) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = _out(model)
    model.save_pretrained(str(tmp_path))
    model.merge_adapter()
    merged = _out(model)
    moved = (trained - plain).norm()
    # the merged weight is quantized again: an error of the size of one step of the code book, below the update itself
    assert (merged - trained).norm() < 0.5 * moved and (merged - plain).norm() > 0.5 * moved
    model.unmerge_adapter()
    again = PeftModel.from_pretrained(_bnb(Wider(), bits), str(tmp_path))
    for name, tensor in adapter_tensors(again).items():
        assert torch.equal(tensor, adapter_tensors(model)[name])


def test_frozen_subspaces_survive_switching_saving_and_loading(tmp_path) -> None:
    base = Mixed()
    model = adapt(copy.deepcopy(base), r=2, target_modules=["square", "embedding"], freeze_subspaces=True)
    model.add_adapter("free", DeepLoraConfig(r=2, target_modules=["square"]))
    for name in ("free", "default"):
        model.set_adapter(name)
    _only_cores_train(model, "default")
    model.set_requires_grad("default", True)
    _only_cores_train(model, "default")
    disturb_(model)
    model.save_pretrained(str(tmp_path), selected_adapters=["default"])
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path), is_trainable=True)
    _only_cores_train(again, "default")
    again.eval()
    assert torch.equal(_out(again), _out(model))


def _only_cores_train(model: nn.Module, adapter: str) -> None:
    own = {name: p.requires_grad for name, p in adapter_tensors(model).items() if name.endswith(f".{adapter}")}
    assert own == {name: "deep_lora_core" in name for name in own}


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model = adapt(llama(), r=2, target_modules=PROJECTIONS, init_weights=False).train()

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model(input_ids=ids(), labels=ids()).loss.backward()
        found = {name: p.grad.clone() for name, p in adapter_tensors(model).items()}
        assert found and all(gradient.any() for gradient in found.values())
        return found

    plain = gradients()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.base_model.model.is_gradient_checkpointing
    again = gradients()
    assert all(torch.equal(again[name], plain[name]) for name in plain)


@pytest.mark.parametrize("variant", ["compressed", "narrow", "wide"])
@pytest.mark.parametrize("model", [Mixed, Pixels])
def test_every_trainable_parameter_gets_a_gradient_so_that_ddp_finds_none_unused(model, variant: str) -> None:
    x, targets = ids(), ["embedding", "square", "tall", "wide"]
    if model is Pixels:
        x, targets = torch.linspace(-1, 1, 648).reshape(2, 4, 9, 9), ["first", "grouped", "head"]
    adapted = adapt(model(), r=4, target_modules=targets, variant=variant, init_scale=0.1, bias="all")
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trainable.values(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        adapted(x).square().mean().backward()
        assert trainable and not [name for name, p in trainable.items() if p.grad is None]
        optimizer.step()
    assert all(p.grad.any() for name, p in trainable.items() if "deep_lora" in name and p.numel())
