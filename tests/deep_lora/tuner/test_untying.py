"""Models whose output embeddings are tied to those of the decoder, and not to the input embeddings of the encoder."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import MarianConfig, MarianMTModel, T5GemmaConfig, T5GemmaForConditionalGeneration

from tests.models import VOCABULARY, adapt, ids

SIZES = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4,
    "num_key_value_heads": 1, "vocab_size": VOCABULARY,
}  # fmt: skip
PAIR = {
    "vocab_size": VOCABULARY, "decoder_vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
    "pad_token_id": 0, "max_position_embeddings": 16, "share_encoder_decoder_embeddings": False,
}  # fmt: skip
MODELS = {
    "Marian": lambda: MarianMTModel(MarianConfig(**PAIR)),
    "T5Gemma": lambda: T5GemmaForConditionalGeneration(
        T5GemmaConfig(encoder=SIZES, decoder=SIZES, vocab_size=VOCABULARY)
    ),
}
INPUTS = {"input_ids": ids(), "decoder_input_ids": ids()}


@torch.no_grad()
def outputs(model) -> torch.Tensor:
    return model(**INPUTS).logits


def error_after_a_reload(model, folder) -> float:
    wanted = outputs(model)
    merged = model.merge_and_unload()
    merged.save_pretrained(folder)
    return float((outputs(type(merged).from_pretrained(folder).eval()) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_a_merged_model_keeps_its_output_embeddings_when_it_is_saved(name, tmp_path) -> None:
    torch.manual_seed(0)
    model = adapt(MODELS[name](), r=2, init_weights=False).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*tied")
        assert error_after_a_reload(model, tmp_path) < 1e-5
    assert model.get_base_model().config.tie_word_embeddings


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", ["decoder.embed_tokens", "encoder.embed_tokens"])
@pytest.mark.parametrize("name", MODELS)
def test_embeddings_of_each_side_are_merged_alone(name, targets, tmp_path) -> None:
    torch.manual_seed(0)
    model = adapt(MODELS[name](), r=2, target_modules=[targets], init_weights=False).eval()
    assert error_after_a_reload(model, tmp_path) < 1e-5
    assert model.get_base_model().config.tie_word_embeddings == (targets == "encoder.embed_tokens")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_lora_loses_the_output_embeddings(name, tmp_path) -> None:
    """What this guards against; once PEFT compares the right embeddings, that part of `ties_as_configured` can go."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    assert error_after_a_reload(get_peft_model(MODELS[name](), config).eval(), tmp_path) > 0.01
