"""Causal language models: long prompts lose their front, special tokens come once, losses count what is learned."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.training import tiny
from tests.training.tasks.byte_level import byte_level
from training.errors import UsageError
from training.tasks.base import encode_texts
from training.tasks.continuation import encode_continuations, require_causal

NONE = -100


def learned(text, target=None, most=64, begin=False):
    """The whole text, the part of it that has labels, and how much was cut off."""
    tokenizer = byte_level(begin)
    encoded = encode_continuations([text], None if target is None else [target], tokenizer, most)
    (ids,), (labels,), (cut,) = encoded["input_ids"], encoded["labels"], encoded["cut"]
    assert len(ids) == len(labels) == len(encoded["attention_mask"][0]) <= most
    assert all(label in (NONE, token) for label, token in zip(labels, ids, strict=True)) and labels[0] == NONE
    return tokenizer.decode(ids), tokenizer.decode([label for label in labels if label != NONE]), cut


@pytest.mark.parametrize(
    ("prompt", "target", "whole"),
    [
        ("is it good?", "good", "is it good? good</s>"),
        ("is it good? ", "good", "is it good? good</s>"),
        ("is it good?\n", "good", "is it good?\ngood</s>"),
        ("is it good?", "\ngood", "is it good?\ngood</s>"),
        ("is it good?", "good</s>", "is it good? good</s>"),
    ],
)
def test_a_target_follows_its_prompt_after_white_space_and_alone_is_learned(prompt, target, whole) -> None:
    found = learned(prompt, target)
    assert found[0] == whole and found[1].strip() == "good</s>"
    assert learned(prompt, target, begin=True)[0] == f"<s>{whole}"


@pytest.mark.parametrize("text", ["the film", "<s>the film</s>", "the film</s>", "<s>the film"])
def test_beginning_and_end_come_once(text) -> None:
    assert learned(text, begin=True)[:2] == ("<s>the film</s>", "the film</s>")
    assert learned("<s>the film</s>\n", begin=True)[0] == "<s>the film</s>\n", "as chats are rendered"


@pytest.mark.parametrize("begin", [False, True])
def test_a_long_prompt_loses_its_beginning_and_keeps_the_question(begin) -> None:
    whole, target, cut = learned("the film was good the film was good is it good?", "bad", most=8, begin=begin)
    first = "<s>" if begin else ""
    assert whole.startswith(first) and whole.endswith(" is it good? bad</s>") and target == " bad</s>"
    assert cut == len(byte_level(begin)("the film was good the film was good is it good? bad")["input_ids"]) + 1 - 8


def test_a_long_target_loses_its_end_and_leaves_half_of_the_room_to_the_prompt() -> None:
    whole, target, cut = learned("is it good?", "good bad " * 20, most=6)
    assert len(byte_level()(whole)["input_ids"]) == 6 and whole == " it good? good bad good" and cut > 20
    assert "</s>" not in whole and learned("the film was good", most=3) == ("the film was", " film was", 2)


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_the_logged_loss_is_the_mean_over_the_tokens_that_are_predicted(model, tmp_path, finetune) -> None:
    """Trainer divides the sum of a model that takes `num_items_in_batch` by the number of labels, shifted or not."""
    torch.manual_seed(0)
    if model == "gpt2":
        base = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=64, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0,
                                          embd_pdrop=0, attn_pdrop=0))  # fmt: skip
    else:
        base = LlamaForCausalLM(LlamaConfig(vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                            num_attention_heads=2, max_position_embeddings=64))  # fmt: skip
    base.save_pretrained(tmp_path / "model")
    tokenizer = byte_level()
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("the film was good\n" * 20)
    words = [
        "--task",
        "causal_lm",
        "--max_steps",
        "1",
        "--init_batches",
        "0",
        "--validation_data",
        tmp_path / "texts.txt",
    ]
    status, printed = finetune(tmp_path / "model", tmp_path / "texts.txt", *words)
    assert status == 0, printed
    ids = torch.tensor([[*tokenizer("the film was good")["input_ids"], tokenizer.eos_token_id]])
    with torch.no_grad():
        expected = base.eval()(input_ids=ids, labels=ids).loss.item()
    assert tiny.results(tmp_path / "run")["log"][0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_model_that_sees_the_tokens_after_is_refused() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with pytest.raises(
        UsageError, match="bert is a BertLMHeadModel, which sees the tokens after the one that it predicts"
    ):
        require_causal(BertLMHeadModel(BertConfig(vocab_size=40, **sizes)), "bert")
    require_causal(BertLMHeadModel(BertConfig(vocab_size=40, is_decoder=True, **sizes)), "bert")
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes)).train()
    require_causal(model, "llama")
    assert model.training


def test_tokens_of_texts_that_are_cut_off_are_counted() -> None:
    tokenizer = byte_level()
    encoded, lost = encode_texts(tokenizer, ["the film was good", "a"], ["bad film", "a"], max_length=3)
    assert [len(ids) for ids in encoded["input_ids"]] == [3, 2]
    assert lost == [len(tokenizer("the film was good", "bad film")["input_ids"]) - 3, 0]
