"""Batches of several adapters in models whose layers see something else than one row for each sample."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from deep_lora import DeepLoraConfig
from tests.models import VOCABULARY, adapt

NAMES = ["default", "__base__", "other", "default", "other", "__base__", "default", "other"]
XLNET = {"vocab_size": VOCABULARY, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
LED = {
    "vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "attention_window": 4, "pad_token_id": 0,
}  # fmt: skip
OPT = {
    "vocab_size": VOCABULARY, "hidden_size": 8, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "word_embed_proj_dim": 8, "pad_token_id": 0,
}  # fmt: skip
FSMT = {
    "langs": ["a", "b"], "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 1,
    "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8, "pad_token_id": 0,
}  # fmt: skip
TOKENS_FIRST = {
    "XLNet": lambda: hf.XLNetModel(hf.XLNetConfig(**XLNET)),
    "LED": lambda: hf.LEDModel(hf.LEDConfig(**LED)),
    "FSMT": lambda: hf.FSMTModel(hf.FSMTConfig(**FSMT)),
}


def two_adapters(model, targets):
    adapted = adapt(model, r=2, target_modules=targets, init_weights=False)
    adapted.add_adapter("other", DeepLoraConfig(r=2, target_modules=targets, init_weights=False))
    return adapted.eval()


def tokens(samples: int, length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (samples, length))


@pytest.mark.parametrize("name", TOKENS_FIRST)
def test_as_many_tokens_as_samples_are_refused_where_tokens_come_first(name) -> None:
    model = two_adapters(TOKENS_FIRST[name](), "all-linear")
    with pytest.raises(ValueError, match=f"layers of a {name.lower()} model see tokens before samples, .* 8 of each"):
        model(tokens(8, 8), adapter_names=NAMES)
    with pytest.raises(ValueError, match="but got 4 and (8|12) respectively. Give one name for each sample; if"):
        model(tokens(4, 12 if name != "LED" else 8), adapter_names=NAMES[:4])


@torch.no_grad()
def test_layers_that_see_all_tokens_in_one_row_are_refused_and_single_tokens_are_right() -> None:
    torch.manual_seed(0)
    model = two_adapters(hf.OPTModel(hf.OPTConfig(**OPT)), ["fc1", "fc2"])
    with pytest.raises(ValueError, match="but got 8 and 64 respectively. .* call the model once for each adapter"):
        model(tokens(8, 8), adapter_names=NAMES)
    inputs = tokens(8, 1)
    mixed = model(inputs, adapter_names=NAMES).last_hidden_state
    with model.disable_adapter():
        wanted = {"__base__": model(inputs).last_hidden_state}
    for name in ("default", "other"):
        model.set_adapter(name)
        wanted[name] = model(inputs).last_hidden_state
    torch.testing.assert_close(mixed, torch.stack([wanted[name][row] for row, name in enumerate(NAMES)]))
