"""Tied embeddings that are trained and saved whole: adapters and merged models come back from a folder as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, inject_adapter_in_model
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from deep_lora import DeepLoraConfig
from tests.deep_lora.tuner.tied import PAIR, SMALL, close, trained_
from tests.models import VOCABULARY, adapt, gpt2, ids, llama

MODELS: dict[str, Any] = {
    "BART": lambda: BartForConditionalGeneration(BartConfig(**PAIR)),
    "mBART": lambda: MBartForConditionalGeneration(MBartConfig(**PAIR)),
    "Marian": lambda: MarianMTModel(MarianConfig(**PAIR)),
    "Marian, two vocabularies": lambda: MarianMTModel(MarianConfig(**PAIR, share_encoder_decoder_embeddings=False)),
    "T5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    ),
    "BERT": lambda: BertForMaskedLM(BertConfig(**SMALL)),
    "Llama": lambda: llama(tie_word_embeddings=True),
    "GPT-2": gpt2,
}


def built(name: str) -> nn.Module:
    """A model with biases that are not zero, which a module without a bias would lose."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if key.endswith("bias"):
                tensor.normal_()
    return model


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    more = {"decoder_input_ids": ids(seed=2)} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids(), **more).logits


UNTIED = [
    ("Marian", "lm_head"), ("Marian", "embed_tokens"), ("mBART", "decoder"), ("BART", "shared"), ("mBART", "lm_head"),
    ("T5", "encoder.embed_tokens"), ("T5", "lm_head"), ("BERT", "word_embeddings"), ("BERT", "predictions.decoder"),
    ("Llama", "embed_tokens"), ("GPT-2", "wte"), ("Marian, two vocabularies", "decoder.embed_tokens"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "saved"), UNTIED)
def test_a_merged_model_with_one_of_its_tied_modules_trained_whole_comes_back(name, saved, tmp_path) -> None:
    model = trained_(adapt(built(name), r=2, modules_to_save=[saved]).eval())
    wanted = outputs(model)
    merged = model.merge_and_unload()
    assert close(outputs(merged), wanted)
    merged.save_pretrained(tmp_path)
    assert close(outputs(type(merged).from_pretrained(tmp_path).eval()), wanted)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`|Input and output embeddings are no longer")
def test_parting_what_was_tied_is_told() -> None:
    model = trained_(adapt(built("BERT"), r=2, modules_to_save=["word_embeddings"]))
    with pytest.warns(UserWarning, match="a module that was trained whole has a weight of its own now"):
        merged = model.merge_and_unload()
    assert not merged.config.tie_word_embeddings


TIED = [
    ("BART", ["shared", "embed_tokens"]), ("BART", ["lm_head"]), ("mBART", ["embed_tokens"]),
    ("Marian", ["embed_tokens"]), ("Marian", ["lm_head"]), ("Marian", ["shared"]), ("T5", ["shared"]),
    ("T5", ["shared", "embed_tokens", "lm_head"]), ("BERT", ["word_embeddings"]), ("BERT", ["predictions.decoder"]),
    ("Llama", ["lm_head"]), ("Llama", ["embed_tokens", "norm"]), ("GPT-2", ["wte"]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "saved"), TIED)
def test_modules_that_are_tied_share_one_trained_weight_wherever_they_come_from(name, saved, tmp_path) -> None:
    settings: dict[str, Any] = {"r": 2, "modules_to_save": list(saved), "ensure_weight_tying": True}
    model = adapt(built(name), **settings).eval()
    assert close(outputs(model), outputs(built(name)))
    weights = {module.weight for module in copies_of(model)}
    assert len(weights) == 1 and len(copies_of(model)) >= 2
    wanted = outputs(trained_(model))
    assert not close(wanted, outputs(built(name)))
    with model.disable_adapter():
        assert close(outputs(model), outputs(built(name)))
    model.save_pretrained(tmp_path / "adapter")
    for options in ({}, {"low_cpu_mem_usage": True}):
        loaded = PeftModel.from_pretrained(built(name), tmp_path / "adapter", is_trainable=True, **options).eval()
        assert close(outputs(loaded), wanted) and len({module.weight for module in copies_of(loaded)}) == 1
    model.load_adapter(tmp_path / "adapter", "two")
    model.set_adapter("two")
    assert close(outputs(model), wanted)
    model.save_pretrained(tmp_path / "both")
    assert close(outputs(PeftModel.from_pretrained(built(name), tmp_path / "both" / "two").eval()), wanted)
    merged = model.merge_and_unload()
    assert close(outputs(merged), wanted)
    merged.save_pretrained(tmp_path / "merged")
    assert close(outputs(type(merged).from_pretrained(tmp_path / "merged").eval()), wanted)


def copies_of(model: nn.Module) -> list[Any]:
    """What is trained whole, of a tied weight."""
    wrappers = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    copies = [wrapper.modules_to_save["default"] for wrapper in wrappers]
    return [copied for copied in copies if copied.weight.shape[0] == VOCABULARY]


def test_what_is_tied_inside_of_a_module_that_is_saved_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot tie 'model.decoder.embed_tokens', which lies in 'model.decoder'"):
        adapt(built("BART"), r=2, modules_to_save=["decoder", "embed_tokens"], ensure_weight_tying=True)


def test_an_adapter_that_is_injected_without_a_model_of_peft_is_tied_too() -> None:
    base = built("BART")
    config = DeepLoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True)
    model = inject_adapter_in_model(config, base)
    assert close(outputs(model), outputs(built("BART")))
    assert len({module.weight for module in copies_of(model)}) == 1


@pytest.mark.parametrize("saved", ["embed_tokens", "lm_head"])
def test_nothing_is_tied_where_the_configuration_says_so(saved: str) -> None:
    base = built("Llama")
    base.config.tie_word_embeddings = False
    with pytest.warns(UserWarning, match="no tied modules were found in the model"):
        model = adapt(base, r=2, modules_to_save=[saved], ensure_weight_tying=True)
    assert len(copies_of(model)) == 1
