"""Coming from LoRA: its fields are refused with an advice, or carried over with what they mean."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from peft import AdaLoraConfig, LoraConfig, PeftConfig
from peft.tuners.lora import LoraRuntimeConfig

from deep_lora import DeepLoraConfig
from deep_lora.help_texts import help_texts

OURS = {field.name: field for field in dataclasses.fields(DeepLoraConfig)}
LORAS = {field.name: field for field in dataclasses.fields(LoraConfig)}
# Every field that both have, at a value that is not its default.
SHARED = {
    "r": 4, "target_modules": ["q"], "exclude_modules": ["k"], "fan_in_fan_out": True, "modules_to_save": ["head"],
    "layers_to_transform": [0], "layers_pattern": "layers", "rank_pattern": {"q": 2}, "inference_mode": True,
    "trainable_token_indices": {"embed": [1]}, "target_parameters": ["moe.w"], "ensure_weight_tying": True,
    "task_type": "CAUSAL_LM", "base_model_name_or_path": "base", "revision": "main", "bias": "all",
    "auto_mapping": {"base_model_class": "A"},
}  # fmt: skip
CHANGES_LORA = {
    "use_dora": True, "lora_bias": True, "layer_replication": [(0, 1)], "megatron_config": {"a": 1},
    "megatron_core": "mine", "use_qalora": True, "runtime_config": LoraRuntimeConfig(ephemeral_gpu_offload=True),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LORAS.keys() - OURS.keys()))
def test_every_field_that_only_lora_has_is_refused_with_an_advice(name: str) -> None:
    advice = "there is no alpha|use `deep_lora_dropout`|`initialize_subspaces_`|Deep LoRA does not support it: leave it"
    with pytest.raises(TypeError, match=rf"DeepLoraConfig got an unexpected keyword argument '{name}' \(.*({advice})"):
        DeepLoraConfig(r=4, **{name: None})


def test_several_are_named_together_and_other_words_are_pythons() -> None:
    with pytest.raises(TypeError, match=r"'lora_alpha' \(.*leave it out\) and 'lora_dropout' \(use `deep_lora_"):
        DeepLoraConfig(lora_dropout=0.1, lora_alpha=16)
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'rnak'$"):
        DeepLoraConfig(rnak=4)
    with pytest.raises(TypeError, match="'lora_alpha'"):
        DeepLoraConfig.paper(lora_alpha=16)


def test_a_saved_configuration_with_a_field_of_lora_is_read_without_it(tmp_path: Path) -> None:
    DeepLoraConfig(r=4).save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace("{", '{"lora_alpha": 16, "field_of_the_future": 1,', 1))
    with pytest.warns(UserWarning, match=r"\['field_of_the_future', 'lora_alpha'\].* ignored"):
        assert PeftConfig.from_pretrained(str(tmp_path)).r == 4


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"modules_to_save": "head"}, TypeError, r"`modules_to_save` must be a list .*got 'head'; write \['head'\]"),
        ({"target_parameters": "moe.w"}, TypeError, "`target_parameters` must be a list of strings or None, got"),
        ({"target_modules": ["all-linear", "lm_head"]}, ValueError, "got 'all-linear' in a list, .*pass the string"),
    ],
)
def test_what_peft_would_take_for_something_else_is_refused(settings: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        DeepLoraConfig(**settings)


def test_every_shared_field_is_carried_over() -> None:
    assert SHARED.keys() == LORAS.keys() & OURS.keys() - {"peft_type", "peft_version"}
    lora = LoraConfig(**SHARED)
    config = DeepLoraConfig.from_lora(lora)
    for name, value in SHARED.items():
        assert getattr(config, name) == (set(value) if name in ("target_modules", "exclude_modules") else value), name
    config.modules_to_save.append("another")
    config.rank_pattern["k"] = 1
    assert lora.modules_to_save == ["head"] and lora.rank_pattern == {"q": 2}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, {}),
        ({"lora_alpha": 32, "use_rslora": True, "alpha_pattern": {"q": 4}}, {}),
        ({"lora_dropout": 0.1}, {"deep_lora_dropout": 0.1}),
        ({"bias": "lora_only"}, {"bias": "deep_lora_only"}),
        ({"init_lora_weights": "gaussian"}, {}),
        ({"init_lora_weights": False}, {"init_weights": False}),
        ({"target_modules": "all-linear"}, {"target_modules": "all-linear"}),
    ],
)
def test_renamed_and_dropped_fields(settings: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert DeepLoraConfig.from_lora(LoraConfig(**settings)) == DeepLoraConfig(**wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "value"), CHANGES_LORA.items())
def test_a_field_that_changes_lora_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}=.*` of the LoraConfig has no counterpart in Deep LoRA; unset"):
        DeepLoraConfig.from_lora(LoraConfig(**{name: value}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", ["pissa", "olora", "orthogonal", "eva", "corda"])
def test_a_start_of_another_kind_is_refused(start: str) -> None:
    with pytest.raises(ValueError, match=f"`init_lora_weights='{start}'` of the LoraConfig has no .*set it to True"):
        DeepLoraConfig.from_lora(LoraConfig(init_lora_weights=start))


def test_no_field_of_lora_is_lost() -> None:
    """Each is carried over, tested above as renamed or dropped, or refused at another value than its default."""
    rewritten = {"peft_type", "peft_version"}
    translated = {"lora_alpha", "use_rslora", "alpha_pattern", "lora_dropout", "init_lora_weights"}
    for name in LORAS.keys() - SHARED.keys() - translated - rewritten:
        lora = LoraConfig()
        setattr(lora, name, "something else")
        with pytest.raises(ValueError, match=f"`{name}='something else'` of the LoraConfig"):
            DeepLoraConfig.from_lora(lora)


def test_only_a_config_of_lora_is_taken() -> None:
    for other in (AdaLoraConfig(total_step=10), DeepLoraConfig(), {"r": 4}):
        text = f"needs a LoraConfig, got a {type(other).__name__}; make the DeepLoraConfig by its fields"
        with pytest.raises(TypeError, match=text):
            DeepLoraConfig.from_lora(other)


def test_an_invalid_bias_of_lora_is_refused_as_ours_is() -> None:
    with pytest.raises(ValueError, match="`bias` must be 'none', 'all' or 'deep_lora_only', got 'some'"):
        DeepLoraConfig.from_lora(LoraConfig(bias="some"))


def test_there_are_few_fields_that_lora_does_not_have() -> None:
    assert len(OURS.keys() - LORAS.keys()) <= 12


def test_the_docstring_says_of_every_field_what_its_help_says() -> None:
    section = re.search(r"\nArgs:\n(.*?)\n\n", inspect.getdoc(DeepLoraConfig), re.S).group(1)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section + "\n", re.M | re.S)
    said = {name: " ".join(text.split()) for name, text in entries}
    own = [name for name in OURS if name in DeepLoraConfig.__annotations__]
    assert said == {name: OURS[name].metadata["help"] for name in own} and len(entries) == len(own) > 20


def test_without_docstrings_the_fields_have_no_help() -> None:
    assert help_texts(None)["r"] == {} == help_texts("Do without arguments.")["r"]
