"""A tied embedding and output head share one weight and one adapter."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel

from deep_lora import DeepLoraConfig
from tests.models import adapt, disturb_, gpt2, ids, layers_of, llama

TARGETS = ["embed_tokens", "lm_head"]


def tied_model(**settings) -> PeftModel:
    torch.manual_seed(0)
    options = {"r": 4, "target_modules": TARGETS, "ensure_weight_tying": True, "init_weights": False, **settings}
    return adapt(llama(tie_word_embeddings=True), **options).eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids()).logits


@pytest.mark.parametrize("safe_merge", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_merging_adds_the_common_update_once_and_unmerging_takes_it_back(safe_merge: bool) -> None:
    model = tied_model()
    wanted, weight = logits(model), model.get_output_embeddings().weight.clone()
    # float32 rounding of one addition to the weight, through two layers: well under a thousand eps of the output
    tolerance = {"rtol": 0, "atol": 1e3 * torch.finfo(torch.float32).eps * wanted.abs().max().item()}
    model.merge_adapter(safe_merge=safe_merge)
    assert torch.allclose(logits(model), wanted, **tolerance)
    assert (model.get_output_embeddings().weight - weight).abs().max() > 1e-3
    model.unmerge_adapter()
    assert torch.allclose(model.get_output_embeddings().weight, weight, rtol=0, atol=1e-6)
    assert torch.allclose(logits(model.merge_and_unload()), wanted, **tolerance)


@pytest.mark.filterwarnings("ignore")
def test_a_pattern_for_the_head_does_not_part_it_from_the_embedding() -> None:
    model = tied_model(rank_pattern={"embed_tokens": 6, "lm_head": 2}, depth_pattern={"lm_head": 5})
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name in ("r", "depth", "core_scale"):
        assert getattr(head, name) == getattr(embedding, name)
    assert torch.allclose(head.get_delta_weight("default"), embedding.get_delta_weight("default"), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_tied_adapter_stays_tied_when_it_is_loaded_with_low_memory_or_copied(tmp_path) -> None:
    model = tied_model()
    model.save_pretrained(str(tmp_path))
    base = tied_model().unload()
    loaded = PeftModel.from_pretrained(base, str(tmp_path), low_cpu_mem_usage=True, is_trainable=True).eval()
    for candidate in (loaded, copy.deepcopy(model)):
        embedding, head = candidate.get_input_embeddings(), candidate.get_output_embeddings()
        assert head.deep_lora_core["default"] is embedding.deep_lora_core["default"]
        assert head.deep_lora_U["default"] is embedding.deep_lora_V["default"]
        assert torch.equal(logits(candidate), logits(model))


@pytest.mark.parametrize("targets", [["wte"], ["lm_head"], ["wte", "lm_head"], r".*(wte|c_attn)"])
@pytest.mark.filterwarnings("ignore")
def test_an_embedding_that_peft_does_not_know_by_name_is_tied_and_saved_tied(targets, tmp_path) -> None:
    torch.manual_seed(0)
    model = adapt(gpt2(), r=4, target_modules=targets, ensure_weight_tying=True)
    disturb_(model)
    head = model.get_output_embeddings()
    assert head.deep_lora_core["default"] is model.get_input_embeddings().deep_lora_core["default"]
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(copy.deepcopy(model).unload(), str(tmp_path)).eval()
    wanted = logits(model)
    assert torch.equal(logits(loaded), wanted) and not torch.equal(logits(model.unload()), wanted)


@pytest.mark.parametrize("base", [lambda: llama(tie_word_embeddings=True), gpt2], ids=["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore")
def test_a_second_adapter_is_tied_too_whether_it_is_added_or_loaded(base, tmp_path) -> None:
    torch.manual_seed(0)
    plain, settings = base(), {"r": 4, "target_modules": ["lm_head"], "ensure_weight_tying": True}
    model = adapt(copy.deepcopy(plain), **settings)
    model.add_adapter("second", DeepLoraConfig(**settings, depth=2))
    disturb_(model)
    wanted = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        wanted[name] = logits(model)
        assert name in model.get_output_embeddings().tied_to
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    loaded.load_adapter(str(tmp_path / "second"), "second")
    for name in ("second", "default"):
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded), wanted[name])
    assert not torch.equal(wanted["default"], wanted["second"])


def test_a_tied_head_of_a_half_precision_model_shares_its_parameters_too() -> None:
    torch.manual_seed(0)
    model = adapt(llama(tie_word_embeddings=True).bfloat16(), r=4, target_modules=TARGETS, ensure_weight_tying=True)
    embedding, head = layers_of(model)
    assert embedding.deep_lora_U["default"].dtype == torch.float32
    assert head.deep_lora_V["default"] is embedding.deep_lora_U["default"]
    assert head.deep_lora_core["default"] is embedding.deep_lora_core["default"]
