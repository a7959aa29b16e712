"""Which models maximize a likelihood, with an adapter and without, and what the rule then chooses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from deep_lora import StepRule, create_optimizer
from deep_lora.optimizer.paces import LIKELIHOOD, SCORES, SIMILARITIES, maximizes_likelihood
from tests.deep_lora.optimizer.ruled import trained
from tests.models import adapt, gpt2, llama

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def bert(kind: type[PreTrainedModel], **fields: object) -> Callable[[], nn.Module]:
    return lambda: kind(BertConfig(vocab_size=8, **SIZES, **fields))


def vit(kind: type[PreTrainedModel]) -> Callable[[], nn.Module]:
    return lambda: kind(ViTConfig(image_size=4, patch_size=2, **SIZES))


LIKELIHOODS = {
    "GPT-2": gpt2,
    "Llama": llama,
    "Llama in a module": lambda: nn.ModuleList([llama()]),
    "masked tokens": bert(BertForMaskedLM),
    "classes": bert(BertForSequenceClassification),
    "several classes at once": bert(
        BertForSequenceClassification, num_labels=1, problem_type="multi_label_classification"
    ),
    "tags": bert(BertForTokenClassification),
    "spans": bert(BertForQuestionAnswering),
    "choices": bert(BertForMultipleChoice),
    "next sentence": bert(BertForNextSentencePrediction),
    "images": vit(ViTForImageClassification),
}
OTHERS = {
    "one number": bert(BertForSequenceClassification, num_labels=1),
    "numbers": bert(BertForSequenceClassification, num_labels=3, problem_type="regression"),
    "text encoder": bert(BertModel),
    "image encoder": vit(ViTModel),
}


@pytest.mark.parametrize(
    ("make", "expected"),
    [*((make, True) for make in LIKELIHOODS.values()), *((make, False) for make in OTHERS.values())],
    ids=[*LIKELIHOODS, *OTHERS],
)
def test_models_whose_loss_is_a_likelihood_are_known(make: Callable[[], nn.Module], expected: bool) -> None:
    model = make()
    assert maximizes_likelihood(model) is expected
    if isinstance(model, PreTrainedModel):
        adapted = adapt(model, r=2, target_modules="all-linear")
        parameters = trained(adapted)
        without = SCORES if any(p.ndim > 1 for p in adapted.parameters() if _is_head(adapted, p)) else SIMILARITIES
        rule = StepRule(AdamW(parameters, lr=1e-2), adapted, 20)
        assert rule.pace is (LIKELIHOOD if expected else without) and rule.path == rule.pace.path
        other = StepRule(AdamW(parameters, lr=1e-2), adapted, 20, likelihood=not expected)
        assert other.pace is (without if expected else LIKELIHOOD)


def _is_head(model: nn.Module, parameter: nn.Parameter) -> bool:
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    return "modules_to_save" in names.get(id(parameter), "")


def test_a_matrix_that_the_optimizer_trains_beside_the_adapter_makes_the_guard_milder() -> None:
    model = adapt(BertModel(BertConfig(vocab_size=8, **SIZES)), r=2, target_modules="all-linear")
    head, scale = nn.Linear(8, 1), nn.Parameter(torch.zeros(()))
    paces = [
        StepRule(AdamW([*trained(model), *others], lr=1e-2), model, 20).pace
        for others in ([], [scale, head.bias], [head.weight])
    ]
    assert paces == [SIMILARITIES, SIMILARITIES, SCORES]


def test_the_likelihood_belongs_to_the_step_rule() -> None:
    model = adapt(llama(), r=2, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="`path`, `max_grad_norm` and `likelihood` belong to the step rule"):
        create_optimizer(model, lr=1e-3, likelihood=True)
