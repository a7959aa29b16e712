"""Mixtures of experts: the same words mean the same weights as in LoRA, and the export names what it holds."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from deep_lora import DeepLoraConfig, convert_folder, save_as_lora, to_lora
from deep_lora.optimizer.steps import StepRule
from tests.models import adapt, adapter_tensors, disturb_, layers_of

SIZES: dict[str, Any] = {
    "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "pad_token_id": 0,
    "moe_intermediate_size": 12, "head_dim": 8, "max_position_embeddings": 32,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8,
    "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_shared_experts": 1,
}  # fmt: skip
MIXTURES: dict[str, dict[str, Any]] = {
    "Mixtral": {}, "Qwen2Moe": {"shared_expert_intermediate_size": 12}, "Qwen3Moe": {}, "Olmoe": {}, "GptOss": {},
    "Glm4Moe": LATENT, "DeepseekV3": LATENT, "DeepseekV2": LATENT, "MiniMaxM2": {"rotary_dim": 8},
}  # fmt: skip
USUAL = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(1, 13).reshape(2, 6)


def mixture(name: str) -> nn.Module:
    torch.manual_seed(0)
    settings = SIZES | MIXTURES[name]
    if name.startswith("Deepseek"):
        settings = {key: value for key, value in settings.items() if key != "head_dim"}
    config = getattr(transformers, f"{name}Config")(**settings)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def targeted(name: str, config: Any) -> tuple[list[str], list[str]] | str:
    try:
        tuner: Any = get_peft_model(mixture(name), config).base_model
    except ValueError as error:
        return "".join(sorted(str(error)[:60]))  # PEFT names a set, whose order is that of its making
    return sorted(tuner.targeted_module_names), sorted(tuner.targeted_parameter_names)


@pytest.mark.parametrize(
    "words",
    [
        "all-linear",
        USUAL,
        ["w1", "w2", "w3", "q_proj"],
        ["gate", "v_proj"],
        ["gate_proj"],
        r".*\.(q_proj|\w+_proj|gate)",
    ],
    ids=str,
)
@pytest.mark.parametrize("name", MIXTURES)
def test_the_same_words_mean_the_same_weights_as_in_lora(name: str, words: Any) -> None:
    settings = {"r": 4, "target_modules": words}
    assert targeted(name, DeepLoraConfig(**settings)) == targeted(name, LoraConfig(**settings))


def test_without_words_everything_linear_is_adapted_experts_and_router_too() -> None:
    found = targeted("Mixtral", DeepLoraConfig(r=4))
    assert found == targeted("Mixtral", DeepLoraConfig(r=4, target_modules="all-linear")) and found[1]


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "DeepseekV3"])
def test_experts_and_router_are_adapted_trained_and_merged(name: str) -> None:
    base = mixture(name)
    plain = base(IDS).logits.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model = adapt(base, r=4, target_modules="all-linear")
    torch.testing.assert_close(model(IDS).logits, plain)
    disturb_(model)
    output = model(IDS, labels=IDS)
    output.loss.backward()
    assert not [key for key, p in adapter_tensors(model).items() if p.grad is None]
    assert {layer.bare_parameter for layer in layers_of(model)} == {None, "gate_up_proj", "down_proj", "weight"}
    assert not torch.allclose(output.logits, plain, atol=1e-3)
    merged = model.merge_and_unload()(IDS).logits
    torch.testing.assert_close(merged, output.logits, atol=1e-5, rtol=1e-4)


def test_fused_projections_have_the_sum_of_their_ranks_and_the_users_pattern_counts() -> None:
    config = DeepLoraConfig(r=4, target_modules=USUAL, rank_pattern={"v_proj": 2})
    ranks = {
        layer.bare_parameter or "module": layer.r["default"]
        for layer in layers_of(get_peft_model(mixture("Qwen3Moe"), config))
    }
    assert ranks == {"module": 2, "gate_up_proj": 8, "down_proj": 4}


def test_a_pattern_that_names_nothing_is_still_reported() -> None:
    config = DeepLoraConfig(r=4, target_modules=USUAL, rank_pattern={"nothing": 2})
    with pytest.warns(RuntimeWarning, match="did not match any targeted module and were ignored"):
        get_peft_model(mixture("Qwen3Moe"), config)


def test_a_second_adapter_of_the_same_words_has_a_place_beside_the_first() -> None:
    model = adapt(mixture("Qwen3Moe"), r=4, target_modules=USUAL)
    first = model(IDS).logits
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules=USUAL, init_weights=False))
    model.set_adapter("second")
    assert not torch.allclose(model(IDS).logits, first, atol=1e-4)
    model.set_adapter("default")
    torch.testing.assert_close(model(IDS).logits, first)


@pytest.mark.parametrize("words", ["all-linear", USUAL, r".*\.(v_proj|gate_proj|up_proj|down_proj)"], ids=str)
@pytest.mark.parametrize("name", ["Qwen3Moe", "Qwen2Moe", "Olmoe"])
def test_saved_and_exported_adapters_hold_what_was_adapted(tmp_path: Path, name: str, words: Any) -> None:
    model = adapt(mixture(name), r=4, target_modules=words)
    disturb_(model)
    wanted = model(IDS).logits
    model.save_pretrained(tmp_path / "own")
    save_as_lora(tmp_path / "lora", model)
    for folder in ("own", "lora"):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*adapter keys.*")
            loaded = PeftModel.from_pretrained(mixture(name), str(tmp_path / folder))
        torch.testing.assert_close(loaded(IDS).logits, wanted, atol=1e-5, rtol=1e-4)
    numbers = sum(p.numel() for key, p in loaded.named_parameters() if "lora_" in key)
    assert numbers == sum(tensor.numel() for tensor in to_lora(model)[1].values())


def test_an_export_names_only_what_it_holds(tmp_path: Path) -> None:
    base = mixture("Qwen3Moe")
    model = adapt(base, r=4, target_modules=["q_proj", "v_proj"])
    disturb_(model)
    model.save_pretrained(tmp_path / "own")
    config = json.loads((tmp_path / "own" / "adapter_config.json").read_text())
    config["target_modules"] += ["up_proj", "gate_proj"]  # as it was saved where these names meant nothing
    (tmp_path / "own" / "adapter_config.json").write_text(json.dumps(config))
    convert_folder(tmp_path / "own", tmp_path / "converted", assume_linear=True)
    assert json.loads((tmp_path / "converted" / "adapter_config.json").read_text())["target_modules"] == [
        "q_proj", "v_proj"
    ]  # fmt: skip
    model.peft_config["default"].target_modules |= {"up_proj"}
    assert to_lora(model)[0].target_modules == {"q_proj", "v_proj"}
    model.peft_config["default"].target_modules = {"k_proj"}  # as after an injection by the names in a state dict
    assert {target.rpartition(".")[2] for target in to_lora(model)[0].target_modules} == {"q_proj", "v_proj"}


def test_the_step_rule_moves_experts() -> None:
    model = adapt(mixture("Qwen3Moe"), r=4, target_modules=USUAL).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    StepRule(optimizer, model, num_steps=10)
    for _ in range(2):
        optimizer.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert all(layer.get_delta_weight("default").abs().sum() > 0 for layer in layers_of(model))
