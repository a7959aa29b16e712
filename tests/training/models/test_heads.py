"""New heads of a quantized base are trained whole, so they must stay in full precision."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel

from training.models.loading import load_base
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
