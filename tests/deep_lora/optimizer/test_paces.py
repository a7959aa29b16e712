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
from deep_lora.optimizer.paces import CLASSES, SCORES, SIMILARITIES, TOKENS, maximizes_likelihood
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
    "GPT-2": (gpt2, TOKENS, SIMILARITIES),
    "Llama": (llama, TOKENS, SIMILARITIES),
    "masked tokens": (bert(BertForMaskedLM), TOKENS, SIMILARITIES),
    "classes": (bert(BertForSequenceClassification), CLASSES, SCORES),
    "several classes at once": (bert(BertForSequenceClassification, **SEVERAL), CLASSES, SCORES),
    "tags": (bert(BertForTokenClassification), CLASSES, SCORES),
    "spans": (bert(BertForQuestionAnswering), CLASSES, SCORES),
    "choices": (bert(BertForMultipleChoice), CLASSES, SCORES),
    "next sentence": (bert(BertForNextSentencePrediction), TOKENS, SIMILARITIES),
    "images": (vit(ViTForImageClassification), CLASSES, SCORES),
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
    assert maximizes_likelihood(model) is maximizes_likelihood(nn.ModuleList([model])) is (pace in (TOKENS, CLASSES))
    adapted = adapt(model, r=2, target_modules="all-linear")
    for said, expected in ((None, pace), (True, CLASSES if without is SCORES else TOKENS), (False, without)):
        rule = StepRule(AdamW(trained(adapted), lr=1e-2), adapted, 20, likelihood=said)
        assert rule.pace is expected and rule.path == expected.path


def test_a_matrix_that_the_optimizer_trains_beside_the_adapter_makes_the_guard_milder() -> None:
    model = adapt(BertModel(BertConfig(vocab_size=8, **SIZES)), r=2, target_modules="all-linear")
    head, scale = nn.Linear(8, 1), nn.Parameter(torch.zeros(()))
    for likelihood, expected in ((None, [SIMILARITIES, SIMILARITIES, SCORES]), (True, [TOKENS, TOKENS, CLASSES])):
        paces = [
            StepRule(AdamW([*trained(model), *others], lr=1e-2), model, 20, likelihood=likelihood).pace
            for others in ([], [scale, head.bias], [head.weight])
        ]
        assert paces == expected


def test_output_embeddings_that_are_trained_whole_still_predict_tokens() -> None:
    model = adapt(llama(), r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert StepRule(AdamW(trained(model), lr=1e-2), model, 20).pace is TOKENS


def test_the_likelihood_belongs_to_the_step_rule() -> None:
    model = adapt(llama(), r=2, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="`path`, `max_grad_norm` and `likelihood` belong to the step rule"):
        create_optimizer(model, lr=1e-3, likelihood=True)
