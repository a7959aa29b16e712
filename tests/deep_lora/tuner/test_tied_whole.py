"""Tied embeddings that are trained and saved whole: adapters and merged models come back from a folder as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel
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

from tests.models import VOCABULARY, adapt, gpt2, ids, llama

PAIR = {
    "vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "pad_token_id": 0,
    "max_position_embeddings": 16, "scale_embedding": True,
}  # fmt: skip
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16,
}  # fmt: skip
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


@torch.no_grad()
def trained_(model: PeftModel, seed: int = 3) -> PeftModel:
    """Move every trained tensor, once."""
    torch.manual_seed(seed)
    for tensor in model.parameters():
        if tensor.requires_grad:
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Up to the rounding of one addition to each weight, through a layer or two."""
    return torch.allclose(one, other, rtol=0, atol=1e3 * torch.finfo(torch.float32).eps * other.abs().max().item())


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
