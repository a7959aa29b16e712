"""The export of models that are compiled or wrapped, of tied heads, and of adapters without a task."""

from __future__ import annotations

import pytest
import torch
from peft import AutoPeftModel
from torch import nn
from transformers import BertForSequenceClassification

from deep_lora import kept_ranks, save_as_lora, to_lora
from tests.deep_lora.export.export_cases import out, relative, trained
from tests.models import adapt, bert_classifier, disturb_, gpt2, ids


@pytest.mark.parametrize("case", ["linear", "saved modules", "own biases"])
@pytest.mark.parametrize("wrapping", ["whole", "layer by layer", "DataParallel"])
def test_a_compiled_or_wrapped_model_leaves_as_the_model_itself(case: str, wrapping: str) -> None:
    _, _, model = trained(case)
    config, wanted = to_lora(model)
    ranks = kept_ranks(model)
    if wrapping == "whole":
        wrapped = torch.compile(model, backend="eager")
    elif wrapping == "DataParallel":
        wrapped = nn.DataParallel(model)
    else:
        wrapped, inner = model, model.base_model.model
        inner.square = torch.compile(inner.square, backend="eager")
    found_config, found = to_lora(wrapped)
    assert found_config.to_dict() == config.to_dict() and kept_ranks(wrapped) == ranks
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_tied_head_that_lora_would_not_tie_is_refused() -> None:
    model = gpt2()
    model.out_proj, model.lm_head = model.lm_head, None
    model._tied_weights_keys = {"out_proj.weight": "transformer.wte.weight"}
    model.get_output_embeddings = lambda: model.out_proj
    adapted = adapt(model, r=2, target_modules=["wte"], ensure_weight_tying=True)
    with pytest.raises(
        ValueError,
        match="does not tie an output layer named .'out_proj'. to the embedding, so .*; merge it with",
    ):
        to_lora(adapted)


def test_an_export_without_a_task_names_the_class_of_its_base(tmp_path) -> None:
    bert_classifier().save_pretrained(tmp_path / "base")
    base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    model = adapt(base, r=4, target_modules=["query", "dense"]).eval()
    disturb_(model)
    save_as_lora(tmp_path / "lora", model)
    loaded = AutoPeftModel.from_pretrained(tmp_path / "lora").eval()
    assert isinstance(loaded.get_base_model(), BertForSequenceClassification)
    assert relative(out(loaded, ids()), out(model, ids())) <= 1e-6
