"""Several adapters in one model, of which one saves modules whole and another adapts them: it is saved, or refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from deep_lora import DeepLoraConfig
from tests.models import adapt, adapter_tensors, bert_classifier, ids, llama

QUERY: dict[str, Any] = {"target_modules": ["q_proj"]}
ALL: dict[str, Any] = {"target_modules": "all-linear"}
TIED: dict[str, Any] = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}


def tied_llama() -> nn.Module:
    return llama(tie_word_embeddings=True)


# base, settings of the first adapter and of the second, what the second leaves out
LEFT_OUT = {
    "head of a language model": (llama, QUERY | {"modules_to_save": ["lm_head"]}, ALL, ""),
    "rows of a tied head": (
        tied_llama,
        QUERY | {"trainable_token_indices": [3]},
        ALL | {"trainable_token_indices": [5]},  # PEFT cannot save an adapter without rows beside one that has some
        "",
    ),
    "projection": (llama, QUERY | {"modules_to_save": ["1.self_attn.v_proj"]}, ALL, "layers.1.self_attn.v_proj"),
    "block": (llama, QUERY | {"modules_to_save": ["layers.0.mlp"]}, ALL, "layers.0.mlp"),
    "classifier": (bert_classifier, {"target_modules": ["query"]}, ALL | {"modules_to_save": []}, "classifier"),
}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("case", LEFT_OUT)
def test_all_linear_leaves_out_what_another_adapter_saves_whole(case, tmp_path) -> None:
    build, first, second, left_out = LEFT_OUT[case]
    torch.manual_seed(0)
    base = build()
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = adapt(base, r=2, init_weights=False, **first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.add_adapter("two", DeepLoraConfig(r=2, init_weights=False, **second))
    told = [str(one.message) for one in caught if "leaves out" in str(one.message)]
    assert len(told) == bool(left_out)
    assert all(f"{left_out}, which another adapter of this model" in text for text in told)
    assert not [name for name in adapter_tensors(model) if "modules_to_save" in name or "original_module" in name]
    model.save_pretrained(str(tmp_path))
    model.set_adapter("two")
    with torch.no_grad():
        wanted = model(ids()).logits
        again = build()
        again.load_state_dict(state)
        loaded = PeftModel.from_pretrained(again, str(tmp_path / "two")).eval()
        torch.testing.assert_close(loaded(ids()).logits, wanted)


REFUSED = {
    "projection": (llama, QUERY | {"modules_to_save": ["v_proj"]}, {"target_modules": ["v_proj"]}),
    "part of a block": (llama, QUERY | {"modules_to_save": ["0.mlp"]}, {"target_modules": ["gate_proj"]}),
    "regex": (llama, QUERY | {"modules_to_save": ["0.mlp"]}, {"target_modules": r".*gate_proj"}),
    "parameter": (llama, QUERY | {"modules_to_save": ["0.mlp"]}, QUERY | {"target_parameters": ["gate_proj.weight"]}),
    "rows": (llama, QUERY | {"trainable_token_indices": [3]}, {"target_modules": ["embed_tokens"]}),
    "adapted before": (llama, {"target_modules": ["v_proj"]}, QUERY | {"modules_to_save": ["v_proj"]}),
    "adapted before in a block": (llama, ALL, QUERY | {"modules_to_save": ["0.mlp"]}),
    "head": (bert_classifier, ALL | {"modules_to_save": []}, ALL),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_one_adapter_saves_whole_is_not_adapted_by_another(case, tmp_path) -> None:
    build, first, second = REFUSED[case]
    model = adapt(build(), r=2, **first)
    held = sorted(name for name, _ in model.named_parameters())
    text = "is targeted, wholly or in part, but another adapter|leave it out of `modules_to_save`"
    with pytest.raises(ValueError, match=text):
        model.add_adapter("two", DeepLoraConfig(r=2, **second))
    assert sorted(name for name, _ in model.named_parameters()) == held
    assert list(model.peft_config) == ["default"]
    model.save_pretrained(str(tmp_path))


@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
def test_two_adapters_that_save_tied_embeddings_whole_are_merged() -> None:
    torch.manual_seed(0)
    model = adapt(tied_llama(), r=2, init_weights=False, **ALL, **TIED)
    model.add_adapter("two", DeepLoraConfig(r=2, init_weights=False, **ALL, **TIED))
    with torch.no_grad():
        wanted = model(ids()).logits
        model.merge_adapter()
        torch.testing.assert_close(model(ids()).logits, wanted, rtol=1e-4, atol=1e-5)
