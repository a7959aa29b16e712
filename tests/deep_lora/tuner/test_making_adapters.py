"""However an adapter is made, its precision, what is trained and what it was told are as they should be."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from deep_lora import DeepLoraConfig, parameter_groups
from tests.models import LAYER_CASES, adapt, adapter_tensors, bert_classifier, gpt2, ids, layers_of, llama

HALF = {
    "linear": LAYER_CASES["linear"], "embedding": LAYER_CASES["embedding"], "conv2d": LAYER_CASES["conv2d"],
    "gpt2": LAYER_CASES["gpt2"], "llama": (llama, ids(), {"target_modules": ["q_proj", "down_proj"]}),
    "bert": (bert_classifier, ids(), {"target_modules": ["query", "dense"]}),
    "tied": (
        lambda: llama(tie_word_embeddings=True),
        ids(),
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("combination", ["linear", "svd", "cat", "magnitude_prune"])
@pytest.mark.parametrize("case", HALF)
@pytest.mark.filterwarnings("ignore")
def test_a_copy_on_a_half_precision_base_is_exact_and_saved_so(case, combination, dtype, tmp_path) -> None:
    base, _, settings = HALF[case]
    torch.manual_seed(0)
    model = adapt(base().to(dtype), "one", r=2, **settings)
    with torch.no_grad():
        for name, tensor in adapter_tensors(model).items():
            if "start" not in name and "core" in name:
                tensor.add_(1e-3 * torch.randn_like(tensor))
    density = 1.0 if combination == "magnitude_prune" else None
    model.add_weighted_adapter(["one"], [1.0], "copy", combination_type=combination, density=density)
    assert {tensor.dtype for tensor in adapter_tensors(model).values()} == {torch.float32}
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(base().to(dtype), str(tmp_path / "copy"), adapter_name="copy")
    for layer, again in zip(layers_of(model), layers_of(loaded), strict=True):
        wanted, got = layer.get_delta_weight("one").float(), layer.get_delta_weight("copy").float()
        # the copy is the root of a root of float32's rounding at worst, far below half precision's 4e-3
        assert (got - wanted).norm() < 1e-4 * wanted.norm()
        assert torch.equal(again.get_delta_weight("copy"), layer.get_delta_weight("copy"))


@pytest.mark.parametrize("case", HALF)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_made_again_without_frozen_subspaces_trains_them(case) -> None:
    base, _, settings = HALF[case]
    model = base()
    settings = {**settings, "modules_to_save": []}
    get_peft_model(model, DeepLoraConfig(r=2, freeze_subspaces=True, **settings))
    again = get_peft_model(model, DeepLoraConfig(r=2, **settings))
    assert all(tensor.requires_grad for tensor in adapter_tensors(again).values())
    assert len(parameter_groups(again, lr=1e-3)) == 2
    again.add_adapter("other", DeepLoraConfig(r=2, **settings))
    for name in ("other", "default"):
        again.set_adapter(name)
        assert all(layer.deep_lora_U[name].requires_grad for layer in layers_of(again))
    frozen = get_peft_model(model, DeepLoraConfig(r=2, freeze_subspaces=True, **settings))
    assert not any(layer.deep_lora_U["default"].requires_grad for layer in layers_of(frozen))


@pytest.mark.parametrize("base", [llama, bert_classifier, gpt2], ids=["llama", "bert", "gpt2"])
def test_a_misspelt_depth_is_warned_of_and_a_right_one_is_not(base) -> None:
    target = {"llama": "q_proj", "bert_classifier": "query", "gpt2": "c_attn"}[base.__name__]
    settings = {"r": 2, "target_modules": [target], "fan_in_fan_out": base is gpt2}
    with pytest.warns(RuntimeWarning, match=r"depth_pattern keys did not match .* were ignored: \['qurey', '9'\]"):
        adapt(base(), depth_pattern={"qurey": 5, "9": 2, target: 4}, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model = adapt(base(), depth_pattern={rf".*0.*{target}": 5}, **settings)
    assert [layer.depth["default"] for layer in layers_of(model)] == [5, 3]


def test_the_depth_of_a_parameter_is_no_misspelling() -> None:
    base, _, settings = LAYER_CASES["experts"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = adapt(base(), r=2, depth_pattern={"experts": 2}, **settings)
    assert layers_of(model)[0].depth["default"] == 2


@pytest.mark.parametrize("bits", [4, 8])
def test_merging_into_quantized_weights_warns_and_dequantizing_loses_nothing(bits: int) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    kind = bnb.nn.Linear4bit if bits == 4 else bnb.nn.Linear8bitLt
    kwargs = {"quant_type": "nf4"} if bits == 4 else {"has_fp16_weights": False}

    def model() -> PeftModel:
        torch.manual_seed(0)
        base = nn.Sequential(kind(64, 64, **kwargs), nn.Tanh(), kind(64, 64, bias=False, **kwargs))
        return adapt(base.to("cpu").train(), r=4, target_modules=["0", "2"], init_weights=False).train()

    first = model()
    layer = layers_of(first)[0]
    wanted = layer.get_base_weight().float() + layer.get_delta_weight("default").float()
    with pytest.warns(
        UserWarning, match=r"merging into quantized weights rounds .*merge_and_unload\(dequantize=True\)"
    ):
        first.merge_and_unload()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        merged = model().merge_and_unload(dequantize=True)
    assert type(merged[0]) is nn.Linear and merged[2].bias is None
    assert torch.allclose(merged[0].weight.float(), wanted, rtol=0, atol=4 * torch.finfo(merged[0].weight.dtype).eps)
