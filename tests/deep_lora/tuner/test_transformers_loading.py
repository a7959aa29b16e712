"""`load_adapter` of transformers, which runs no hooks of `load_state_dict`: the same adapter, or an error."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model_state_dict

from deep_lora import AdapterFileError, DeepLoraConfig
from deep_lora.weights.saved import SETTINGS
from tests.deep_lora.tuner.settings_cases import OTHERS
from tests.models import adapt, disturb_, ids, layers_of, llama

TARGETS = ["q_proj", "v_proj"]


def base():
    torch.manual_seed(0)
    return llama(tie_word_embeddings=True)


def trained(**settings):
    model = adapt(base(), **{"r": 2, "target_modules": TARGETS} | settings)
    disturb_(model)
    return model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids()).logits


@pytest.mark.parametrize("way", ["folder", "state"])
@pytest.mark.parametrize("difference", OTHERS)
@pytest.mark.filterwarnings("ignore")
def test_another_configuration_than_the_saved_one_is_an_error_and_leaves_no_adapter(difference, way, tmp_path) -> None:
    saved, own = OTHERS[difference]
    source, model = trained(**saved), base()
    before = logits(model)
    source.save_pretrained(str(tmp_path))
    state = get_peft_model_state_dict(source)
    given = {"peft_model_id": str(tmp_path)} if way == "folder" else {"adapter_state_dict": state}
    with pytest.raises(AdapterFileError, match="'default' of this model has .*load it under another name"):
        model.load_adapter(**given, peft_config=DeepLoraConfig(r=2, target_modules=TARGETS, **own))
    assert torch.equal(logits(model), before) and not model._hf_peft_config_loaded
    model.load_adapter(**given, peft_config=DeepLoraConfig(r=2, target_modules=TARGETS, **saved))
    assert torch.equal(logits(model), logits(source))


@pytest.mark.parametrize("own", [{}, {"deep_lora_version": 2, "core_scale": 1.0}])
def test_a_state_of_an_earlier_version_needs_its_own_format_and_scale(own) -> None:
    fields = {"r": 2, "target_modules": TARGETS, "deep_lora_version": 2}
    source, model = trained(**fields), base()
    state = {key: value for key, value in get_peft_model_state_dict(source).items() if SETTINGS not in key}
    with pytest.raises(
        AdapterFileError, match="whose cores include their start|subtracts a start of .* from its cores"
    ):
        model.load_adapter(
            adapter_state_dict=dict(state),
            peft_config=DeepLoraConfig(**{"r": 2, "target_modules": TARGETS} | own),
        )
    model.load_adapter(adapter_state_dict=state, peft_config=DeepLoraConfig(**fields))
    assert torch.equal(logits(model), logits(source))


def test_frozen_subspaces_stay_frozen_and_tied_parameters_tied(tmp_path) -> None:
    settings = {"ensure_weight_tying": True, "freeze_subspaces": True, "target_modules": ["embed_tokens", "q_proj"]}
    source, model = trained(**settings), base()
    source.save_pretrained(str(tmp_path))
    model.load_adapter(str(tmp_path), is_trainable=True)
    assert torch.equal(logits(model), logits(source))
    trained_parts = {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad}
    assert {part for part in trained_parts if part.startswith("deep_lora")} == {"deep_lora_core"}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert head in layers_of(model) and head.deep_lora_core["default"] is embedding.deep_lora_core["default"]
    assert head.deep_lora_U["default"] is embedding.deep_lora_V["default"]
