"""Which models maximize a likelihood, with an adapter and without, and what the rule chooses for them."""

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
from deep_lora.optimizer.lengths import Pace
from deep_lora.optimizer.paces import LIKELIHOOD, SCORES, SIMILARITIES, maximizes_likelihood
from tests.deep_lora.optimizer.ruled import trained
from tests.models import adapt, gpt2, llama

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def bert(kind: type[PreTrainedModel], **fields: object) -> Callable[[], nn.Module]:
    return lambda: kind(BertConfig(vocab_size=8, **SIZES, **fields))


def vit(kind: type[PreTrainedModel]) -> Callable[[], nn.Module]:
    return lambda: kind(ViTConfig(image_size=4, patch_size=2, **SIZES))


SEVERAL = {"num_labels": 1, "problem_type": "multi_label_classification"}
NUMBERS = {"num_labels": 3, "problem_type": "regression"}
MODELS: dict[str, tuple[Callable[[], nn.Module], Pace, Pace]] = {  # the pace, and that without a likelihood
    "GPT-2": (gpt2, LIKELIHOOD, SIMILARITIES),
    "Llama": (llama, LIKELIHOOD, SIMILARITIES),
    "masked tokens": (bert(BertForMaskedLM), LIKELIHOOD, SIMILARITIES),
    "classes": (bert(BertForSequenceClassification), LIKELIHOOD, SCORES),
    "several classes at once": (bert(BertForSequenceClassification, **SEVERAL), LIKELIHOOD, SCORES),
    "tags": (bert(BertForTokenClassification), LIKELIHOOD, SCORES),
    "spans": (bert(BertForQuestionAnswering), LIKELIHOOD, SCORES),
    "choices": (bert(BertForMultipleChoice), LIKELIHOOD, SCORES),
    "next sentence": (bert(BertForNextSentencePrediction), LIKELIHOOD, SIMILARITIES),
    "images": (vit(ViTForImageClassification), LIKELIHOOD, SCORES),
    "one number": (bert(BertForSequenceClassification, num_labels=1), SCORES, SCORES),
    "numbers": (bert(BertForSequenceClassification, **NUMBERS), SCORES, SCORES),
    "text encoder": (bert(BertModel), SIMILARITIES, SIMILARITIES),
    "image encoder": (vit(ViTModel), SIMILARITIES, SIMILARITIES),
}


@pytest.mark.parametrize(("make", "pace", "without"), MODELS.values(), ids=MODELS)
def test_the_pace_follows_from_the_model_and_from_what_is_said_of_its_loss(
    make: Callable[[], nn.Module], pace: Pace, without: Pace
) -> None:
    model = make()
    assert maximizes_likelihood(model) is maximizes_likelihood(nn.ModuleList([model])) is (pace is LIKELIHOOD)
    adapted = adapt(model, r=2, target_modules="all-linear")
    for said, expected in ((None, pace), (True, LIKELIHOOD), (False, without)):
        rule = StepRule(AdamW(trained(adapted), lr=1e-2), adapted, 20, likelihood=said)
        assert rule.pace is expected and rule.path == expected.path


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
