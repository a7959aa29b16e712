"""A tiny random encoder and made-up sentences, so that `few_shot_text.py --smoke` needs no packages or network."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = {1: "good great fine lovely best", 0: "bad awful poor dull worst", None: "the a film plot actor scene was is"}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_smoke_files(folder: Path) -> None:
    """`folder/model`, an encoder with its tokenizer, and `folder/sentences.csv`."""
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(SPECIAL + " ".join(WORDS.values()).split())}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(str(folder / "model"))
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(str(folder / "model"))
    lines = [f"{made_up_sentence(number)},{number % 2}" for number in range(400)]
    (folder / "sentences.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf8")


def made_up_sentence(number: int) -> str:
    """Words that say nothing and two that tell the class, which is 1 for odd numbers."""
    generator = random.Random(number)
    words = generator.choices(WORDS[None].split(), k=6) + generator.choices(WORDS[number % 2].split(), k=2)
    generator.shuffle(words)
    return " ".join(words)
