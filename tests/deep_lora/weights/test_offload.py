"""accelerate keeps tensors of the model elsewhere: every number is that of the model in one place."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration, ViTConfig, ViTModel

from deep_lora import DeepLoraConfig, save_as_lora, to_lora
from tests.models import LAYER_CASES, VOCABULARY, adapt, bert_classifier, disturb_, gpt2, ids, layers_of, llama

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = {
    **LAYER_CASES,
    "llama": (llama, ids(), {"target_modules": ["q_proj", "v_proj"]}),
    "llama tied": (
        lambda: llama(tie_word_embeddings=True), ids(),
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "ensure_weight_tying": True},
    ),
    "bert": (bert_classifier, ids(), {"target_modules": ["query", "value", "word_embeddings"]}),
    "t5": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
        ).eval(),
        {"input_ids": ids(), "decoder_input_ids": ids()}, {"target_modules": ["q", "v", "wi"]},
    ),
    "vit": (
        lambda: ViTModel(
            ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8,
                      patch_size=4)
        ).eval(),
        torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8), {"target_modules": ["q_proj", "query", "projection"]},
    ),
}  # fmt: skip


def kept_on_the_cpu(model: nn.Module, folder: str) -> None:
    cpu_offload(model, execution_device="cpu")


def kept_with_buffers(model: nn.Module, folder: str) -> None:
    cpu_offload(model, execution_device="cpu", offload_buffers=True)


def kept_on_a_disk(model: nn.Module, folder: str) -> None:
    disk_offload(model, folder, execution_device="cpu")


def dispatched_to_a_disk(model: nn.Module, folder: str) -> None:
    device_map = {name: "disk" for name, _ in model.base_model.model.named_children()}
    device_map = {f"base_model.model.{name}": place for name, place in device_map.items()}
    dispatch_model(model, device_map, main_device="cpu", offload_dir=folder, force_hooks=True)


def behind_another_hook(model: nn.Module, folder: str) -> None:
    """The hook that offloads is one of two, as where a library adds its own."""
    cpu_offload(model, execution_device="cpu")
    for module in model.modules():
        if isinstance(vars(module).get("_hf_hook"), AlignDevicesHook):
            module._hf_hook = SequentialHook(module._hf_hook, ModelHook())


def dispatched_by_parts(model: nn.Module, folder: str) -> None:
    places = {name: "cpu" if index % 2 else "disk" for index, (name, _) in enumerate(model.named_children())}
    dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


WAYS: list[Callable[[nn.Module, str], None]] = [
    kept_on_the_cpu, kept_with_buffers, kept_on_a_disk, dispatched_to_a_disk, behind_another_hook,
]  # fmt: skip


def output(model: nn.Module, x) -> torch.Tensor:
    with torch.no_grad():
        found = model(**x) if isinstance(x, dict) else model(x)
    return found if isinstance(found, torch.Tensor) else found[0]


def adapted(case: str) -> tuple[PeftModel, object]:
    base, x, settings = CASES[case]
    torch.manual_seed(0)
    model = adapt(base(), r=2, **settings)
    disturb_(model)
    return model, x


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("case", CASES)
def test_an_offloaded_model_computes_saves_and_exports_what_it_did_before(case, way, tmp_path) -> None:
    model, x = adapted(case)
    wanted, state = output(model, x), to_lora(model)[1]
    assert not torch.equal(wanted, output(copy.deepcopy(model).unload(), x))
    way(model, str(tmp_path / "kept"))
    assert any(parameter.is_meta for parameter in model.parameters())
    for _ in range(2):
        assert torch.equal(output(model, x), wanted)
    for name, tensor in to_lora(model)[1].items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("way", WAYS[:3], ids=lambda way: way.__name__)
@pytest.mark.parametrize("case", CASES)
def test_merging_into_offloaded_weights_and_unmerging_keep_every_number(case, way, tmp_path) -> None:
    model, x = adapted(case)
    wanted, plain = output(model, x), output(copy.deepcopy(model).unload(), x)
    tolerance = {"rtol": 0, "atol": 1e3 * torch.finfo(torch.float32).eps * wanted.abs().max().item()}
    way(model, str(tmp_path / "kept"))
    model.merge_adapter()
    assert torch.allclose(output(model, x), wanted, **tolerance)
    with model.disable_adapter():  # takes the update out of the weights, layer by layer
        assert torch.allclose(output(model, x), plain, **tolerance)
    assert torch.allclose(output(model, x), wanted, **tolerance)
    for layer in layers_of(model):
        layer.merge()
    assert torch.allclose(output(model, x), wanted, **tolerance)
    model.unmerge_adapter()
    assert torch.allclose(output(model.merge_and_unload(), x), wanted, **tolerance)


@pytest.mark.parametrize("way", WAYS[:3], ids=lambda way: way.__name__)
@pytest.mark.parametrize("case", CASES)
def test_adapters_come_to_an_offloaded_model_and_leave_it(case, way, tmp_path) -> None:
    model, x = adapted(case)
    first = output(model, x)
    way(model, str(tmp_path / "kept"))
    _, _, settings = CASES[case]
    model.add_adapter("second", DeepLoraConfig(r=2, **settings, init_weights=False))
    assert torch.equal(output(model, x), first)
    model.set_adapter("second")
    second = output(model, x)
    assert torch.isfinite(second).all() and not torch.equal(second, first)
    assert torch.equal(output(model, x), second)
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(output(model, x), first)


@pytest.mark.parametrize("way", WAYS[:3], ids=lambda way: way.__name__)
@pytest.mark.parametrize("case", ["linear", "embedding", "gpt2", "conv2d", "experts", "llama", "bert", "t5"])
def test_a_fresh_adapter_on_an_offloaded_base_has_values_and_trains(case, way, tmp_path) -> None:
    base, x, settings = CASES[case]
    torch.manual_seed(0)
    model = base()
    plain = output(model, x)
    way(model, str(tmp_path / "kept"))
    model = adapt(model, r=2, **settings)
    assert not any(p.is_meta for name, p in model.named_parameters() if "deep_lora_" in name)
    assert torch.allclose(output(model, x), plain, rtol=0, atol=1e-6)
    found = model(**x) if isinstance(x, dict) else model(x)
    (found if isinstance(found, torch.Tensor) else found[0]).square().sum().backward()
    assert all(layer.deep_lora_core["default"].grad.abs().sum() > 0 for layer in layers_of(model))


@pytest.mark.parametrize("way", [kept_on_the_cpu, dispatched_by_parts], ids=lambda way: way.__name__)
def test_a_head_that_is_saved_whole_trains_on_an_offloaded_base_and_is_loaded_there(way, tmp_path) -> None:
    torch.manual_seed(0)
    base, x = bert_classifier(), ids()
    plain, weight = output(base, x), base.classifier.weight.detach().clone()
    way(base, str(tmp_path / "kept"))
    model = adapt(base, r=2, target_modules=["query"], task_type="SEQ_CLS")
    assert torch.equal(output(model, x), plain)
    model(x).logits.square().sum().backward()
    head = model.base_model.model.classifier.modules_to_save["default"]
    assert head.weight.grad.abs().sum() > 0 and head.bias.grad.abs().sum() > 0
    with torch.no_grad():
        head.weight.add_(0.5)
    wanted = output(model, x)
    model.save_pretrained(str(tmp_path / "adapter"))
    with model.disable_adapter():
        assert torch.equal(output(model, x), plain)
    torch.manual_seed(0)
    fresh = bert_classifier()
    assert torch.equal(fresh.classifier.weight, weight)
    way(fresh, str(tmp_path / "too"))
    assert torch.equal(output(PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval(), x), wanted)


def test_biases_that_are_offloaded_are_not_trained_without_a_gradient() -> None:
    base = bert_classifier()
    kept_on_the_cpu(base, "")
    with pytest.raises(ValueError, match=r"accelerate offloads bert\.\S+\.bias, so what `bias` in the config trains"):
        adapt(base, r=2, target_modules=["query"], bias="all")


@pytest.mark.parametrize("base", [llama, gpt2], ids=["llama", "gpt2"])
def test_an_adapter_loaded_on_a_base_with_parts_on_a_disk_is_exact(base, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # PEFT takes the first slash off the name of the file that it writes
    targets = {"target_modules": ["q_proj", "down_proj"] if base is llama else ["c_attn", "wte"]}
    torch.manual_seed(0)
    plain = base()
    plain.save_pretrained(str(tmp_path / "base"))
    model = adapt(plain, r=2, fan_in_fan_out=base is gpt2, **targets)
    disturb_(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    wanted = output(model, ids())
    blocks = "model.layers" if base is llama else "transformer.h"
    children = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    others = children if base is llama else ["transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"]
    device_map = dict.fromkeys(others, "cpu") | {f"{blocks}.0": "disk", f"{blocks}.1": "cpu"}
    dispatched = AutoModelForCausalLM.from_pretrained(
        str(tmp_path / "base"), device_map=device_map, offload_folder=str(tmp_path / "kept")
    )
    loaded = PeftModel.from_pretrained(
        dispatched,
        str(tmp_path / "adapter"),
        offload_folder=str(tmp_path / "too"),
        device_map={f"base_model.model.{name}": place for name, place in device_map.items()},
    ).eval()
    assert torch.equal(output(loaded, ids()), wanted)
    loaded.load_adapter(str(tmp_path / "adapter"), "second")
    loaded.set_adapter("second")
    assert torch.equal(output(loaded, ids()), wanted)


def test_an_offloaded_adapter_is_saved_as_it_was(tmp_path) -> None:
    model, x = adapted("llama")
    wanted = output(model, x)
    kept_on_the_cpu(model, "")
    save_as_lora(tmp_path / "lora", model)
    model.save_pretrained(str(tmp_path / "own"))
    torch.manual_seed(0)
    assert torch.equal(output(PeftModel.from_pretrained(llama(), str(tmp_path / "own")).eval(), x), wanted)
    torch.manual_seed(0)
    assert torch.allclose(output(PeftModel.from_pretrained(llama(), str(tmp_path / "lora")), x), wanted, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_training_an_offloaded_adapter_is_refused(case) -> None:
    model, x = adapted(case)
    kept_on_the_cpu(model, "")
    found = model(**x) if isinstance(x, dict) else model(x)
    loss = (found if isinstance(found, torch.Tensor) else found[0]).square().sum()
    with pytest.raises(RuntimeError, match="its gradient would be lost; to train, make the adapter after"):
        loss.backward()


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_without_values_is_refused_beside_a_real_input(case) -> None:
    model, x = adapted(case)
    layer = layers_of(model)[0]
    layer.deep_lora_U["default"] = nn.Parameter(layer.deep_lora_U["default"].to("meta"))
    with pytest.raises(ValueError, match="'default' is on the meta device, so it has no values, but its input has"):
        output(model, x)


def test_merging_into_a_weight_without_a_value_is_refused() -> None:
    model, _ = adapted("linear")
    layer = layers_of(model)[0]
    layer.base_layer.to("meta")
    with pytest.raises(ValueError, match="the base weight is on the meta device, so nothing can be merged into it"):
        layer.merge()
