"""Language models: features are paired with the label that the model's own loss pairs them with."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from collapse import ClassStatistics, HeadObserver, neural_collapse, next_token_pairs
from collapse.language import shifts_labels
from tests.collapse.architectures import BART, DECODER, ENCODER, GPT2, XLNET
from tests.models import VOCABULARY

T5 = {"vocab_size": VOCABULARY, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "pad_token_id": 0,
      "decoder_start_token_id": 0}  # fmt: skip
MODELS = {
    "gpt2": (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2), "lm_head", True),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**DECODER), "lm_head", True),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**DECODER), "lm_head", True),
    "bert decoder": (hf.BertLMHeadModel, hf.BertConfig(**ENCODER, is_decoder=True), "cls.predictions.decoder", True),
    "bert": (hf.BertForMaskedLM, hf.BertConfig(**ENCODER), "cls.predictions.decoder", False),
    "bart decoder": (hf.BartForCausalLM, hf.BartConfig(**BART), "lm_head", False),
    "xlnet": (hf.XLNetLMHeadModel, hf.XLNetConfig(**XLNET), "lm_loss", False),
    "bart": (hf.BartForConditionalGeneration, hf.BartConfig(**BART), "lm_head", False),
    "t5": (hf.T5ForConditionalGeneration, hf.T5Config(**T5), "lm_head", False),
    "qwen2 tokens": (hf.Qwen2ForTokenClassification, hf.Qwen2Config(**DECODER, num_labels=VOCABULARY), "score", False),
}


@pytest.mark.parametrize(("build", "config", "head", "shifts"), MODELS.values(), ids=MODELS.keys())
def test_the_statistics_are_those_of_the_pairs_in_the_models_loss(build, config, head, shifts) -> None:
    torch.manual_seed(0)
    model = build(config).eval()
    tokens, seen = torch.randint(3, VOCABULARY, (6, 7)), []
    labels = tokens.masked_fill(torch.rand(6, 7) < 0.2, -100)
    handle = model.get_submodule(head).register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    observer = HeadObserver(model, head)
    with observer.watching(), torch.no_grad():
        output = model(input_ids=tokens, labels=labels)
        model(input_ids=tokens, labels=labels)
    handle.remove()
    assert shifts_labels(model, output, labels) == shifts
    features, own = (seen[0][:, :-1], labels[:, 1:]) if shifts else (seen[0], labels)
    expected = ClassStatistics(VOCABULARY, features.shape[-1])
    for _ in range(2):
        expected.update(features, own)
    assert torch.equal(observer.statistics.counts, expected.counts)
    torch.testing.assert_close(observer.statistics.means, expected.means)
    logits = output.logits[:, :-1] if shifts else output.logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), own.flatten())
    torch.testing.assert_close(output.loss, loss, rtol=1e-4, atol=1e-5)


def test_without_a_loss_the_kind_of_model_decides() -> None:
    model, labels = hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)), torch.ones(2, 3).long()
    assert shifts_labels(model, None, labels)
    assert not shifts_labels(hf.BertForMaskedLM(hf.BertConfig(**ENCODER)), None, labels)


def test_stored_hidden_states_of_a_language_model_give_what_its_observer_gives() -> None:
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER)).eval()
    tokens = torch.randint(3, VOCABULARY, (6, 7))
    labels = tokens.masked_fill(torch.rand(6, 7) < 0.2, -100)
    observer = HeadObserver(model, "lm_head")
    with observer.watching(), torch.no_grad():
        output = model(input_ids=tokens, labels=labels, output_hidden_states=True)
    weight = model.lm_head.weight.detach()
    hidden = output.hidden_states[-1]
    found = neural_collapse(*next_token_pairs(hidden, labels), weight)
    assert found == pytest.approx(neural_collapse(observer.statistics, weight=weight))
    assert found["nc1"] != pytest.approx(neural_collapse(hidden, labels, weight)["nc1"], rel=1e-3)
    rows, own = next_token_pairs(hidden.numpy(), labels.tolist())
    loss = torch.nn.functional.cross_entropy((rows @ weight.mT).flatten(0, 1), own.flatten())
    torch.testing.assert_close(loss, output.loss)
