"""New heads of a quantized base stay in full precision, as they are trained whole; names of layers are checked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel

from training.errors import UsageError
from training.models.adapters import require_layers
from training.models.loading import load_base
from training.settings.adapter import AdapterArguments
from training.settings.common import ModelArguments

SMALL = {"vocab_size": 8, "dim": 64, "hidden_dim": 64, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 8}


def test_heads_with_a_bias_are_not_quantized(tmp_path) -> None:
    """Both layers of DistilBERT's head are new; transformers by itself spares the bias of the last one."""
    pytest.importorskip("bitsandbytes")
    DistilBertModel(DistilBertConfig(**SMALL)).save_pretrained(tmp_path)
    task = SimpleNamespace(
        name="classification", auto_class="AutoModelForSequenceClassification", model_settings={"num_labels": 2}
    )
    for bits in ({"load_in_4bit": True}, {"load_in_8bit": True}):
        model, new = load_base(ModelArguments(model=str(tmp_path), **bits), task)
        assert set(new) == {"classifier", "pre_classifier"}
        assert {type(model.get_submodule(name)) for name in new} == {torch.nn.Linear}
        quantized = model.distilbert.transformer.layer[0].attention.q_lin
        assert not quantized.weight.is_floating_point()


def test_a_name_that_one_of_two_towers_has_is_enough() -> None:
    first, second = (
        torch.nn.ModuleDict({"query": torch.nn.Linear(2, 2)}),
        torch.nn.ModuleDict({"c_attn": torch.nn.ReLU()}),
    )
    names = AdapterArguments(target_modules=["query", "c_attn"])
    require_layers(names, first, second)
    with pytest.raises(UsageError, match="--target_modules got 'c_attn', and the model has no layer of that name; its"):
        require_layers(names, first)
    require_layers(AdapterArguments(target_modules=["que.*"]), first)  # a regular expression, which PEFT checks
