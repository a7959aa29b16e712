"""Rows of an embedding that are trained, where its weight is that of other modules too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

from deep_lora import DeepLoraConfig
from tests.deep_lora.tuner.tied import PAIR, SMALL, close, trained_
from tests.models import VOCABULARY, adapt, ids, llama

END = 1
ENDED = torch.cat([ids().masked_fill(ids() == END, 2), torch.full((len(ids()), 1), END)], 1)
ROWS = [5, 6, int(ids()[0, 0])]
T5 = T5Config(
    vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
    eos_token_id=END,
).to_dict()  # fmt: skip
BOTH = {"input_ids": ids(), "decoder_input_ids": ids(seed=2)}
MODELS: dict[str, Any] = {
    "BART": (lambda: BartForConditionalGeneration(BartConfig(**PAIR)), BOTH),
    "BART's classifier": (
        lambda: BartForSequenceClassification(BartConfig(**PAIR, eos_token_id=END)),
        {"input_ids": ENDED},
    ),
    "Marian": (lambda: MarianMTModel(MarianConfig(**PAIR)), BOTH),
    "T5": (lambda: T5ForConditionalGeneration(T5Config(**T5)), BOTH),
    "T5's classifier": (lambda: T5ForSequenceClassification(T5Config(**T5)), {"input_ids": ENDED}),
    "T5's encoder": (lambda: T5EncoderModel(T5Config(**T5)), {"input_ids": ids()}),
    "BERT": (lambda: BertForMaskedLM(BertConfig(**SMALL)), {"input_ids": ids()}),
    "Llama": (lambda: llama(tie_word_embeddings=True), {"input_ids": ids()}),
}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name][0]().eval()


def outputs(model: nn.Module, name: str) -> torch.Tensor:
    return model(**MODELS[name][1])[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_rows_of_the_embedding_are_those_of_all_that_is_tied_to_it(name, tmp_path) -> None:
    model = adapt(built(name), r=2, trainable_token_indices=list(ROWS)).eval()
    outputs(model, name).square().sum().backward()
    (delta,) = [tensor for key, tensor in model.named_parameters() if "trainable_tokens_delta" in key]
    assert delta.grad is not None and delta.grad.norm() > 0
    with torch.no_grad():
        wanted = outputs(trained_(model), name)
        model.save_pretrained(tmp_path / "adapter")
        assert close(outputs(PeftModel.from_pretrained(built(name), tmp_path / "adapter").eval(), name), wanted)
        model.merge_adapter()
        assert close(outputs(model, name), wanted)
        model.unmerge_adapter()
        merged = model.merge_and_unload()
        assert close(outputs(merged, name), wanted)
        merged.save_pretrained(tmp_path / "merged")
        assert close(outputs(type(merged).from_pretrained(tmp_path / "merged").eval(), name), wanted)
    assert merged.config.tie_word_embeddings


ONE = [
    ("BART", "encoder.embed_tokens"), ("BART's classifier", "decoder.embed_tokens"), ("T5", "decoder.embed_tokens"),
    ("T5's classifier", "encoder.embed_tokens"), ("Marian", "decoder.embed_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "which"), ONE)
@pytest.mark.filterwarnings("ignore:Model has `tie_word|Input and output embeddings are no")
def test_rows_of_one_of_several_tied_modules_are_merged_into_that_alone(name, which, tmp_path) -> None:
    model = trained_(adapt(built(name), r=2, trainable_token_indices={which: list(ROWS)}).eval())
    with torch.no_grad():
        wanted = outputs(model, name)
        with pytest.warns(UserWarning, match="a weight of its own: it was shared with a module"):
            merged = model.merge_and_unload()
        assert close(outputs(merged, name), wanted)
        merged.save_pretrained(tmp_path)
        assert close(outputs(type(merged).from_pretrained(tmp_path).eval(), name), wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["BART's classifier", "Llama", "T5"])
def test_rows_of_an_adapter_that_is_loaded_but_not_active_are_not_used(name, tmp_path) -> None:
    """PEFT activates those of the tied modules."""
    plain = {"r": 2, "target_modules": "all-linear"}
    rows = trained_(adapt(built(name), **plain, trainable_token_indices=list(ROWS)))
    rows.save_pretrained(tmp_path)
    model = trained_(get_peft_model(built(name), DeepLoraConfig(**plain))).eval()
    with torch.no_grad():
        before = outputs(model, name)
        model.load_adapter(tmp_path, "two")
        assert close(outputs(model, name), before)
        model.set_adapter("two")
        assert close(outputs(model, name), outputs(rows.eval(), name))
    wrappers = [module for module in model.modules() if isinstance(module, TrainableTokensWrapper)]
    assert all(wrapper.active_adapters == ["two"] for wrapper in wrappers)
