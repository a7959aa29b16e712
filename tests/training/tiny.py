"""Tiny random models, a tokenizer of whole words, small files of data and the options of a short run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

QUICK = [
    "--max_steps", "3", "--per_device_train_batch_size", "4", "--logging_steps", "1", "--eval_strategy", "no",
    "--save_strategy", "no", "--disable_tqdm", "true", "--use_cpu", "true", "--rank", "2",
]  # fmt: skip
GOOD, BAD = "good great fine lovely best".split(), "bad awful poor dull worst".split()
FILLER = "the a film plot actor scene was is very quite".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>"]
VOCABULARY = {word: number for number, word in enumerate([*SPECIAL, *GOOD, *BAD, *FILLER])}


def save_tokenizer(folder: Path) -> None:
    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="</s>", model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip


def save_bert(folder: Path, dropout: float = 0.1) -> Path:
    """An encoder without a head, as pretrained ones are."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_llama(folder: Path, width: int = 64) -> Path:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=width, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=4, bos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_t5(folder: Path) -> Path:
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=len(VOCABULARY), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0,
        eos_token_id=4, decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_vit(folder: Path) -> Path:
    torch.manual_seed(1)
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A model of images and texts; CLIP has no dropout but in its attention, where it is off."""
    torch.manual_seed(1)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 64, "eos_token_id": 3, "bos_token_id": 2,
            "pad_token_id": 0}  # fmt: skip
    vision = {"image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=tower | text, vision_config=tower | vision, projection_dim=8)).save_pretrained(
        folder
    )
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    torch.manual_seed(1)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 16, "eos_token_id": 4, "bos_token_id": 2,
            "pad_token_id": 0}  # fmt: skip
    vision = {"image_size": 16, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config=tower | text, vision_config=tower | vision)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_pictures(folder: Path, rows: int = 24, seed: int = 0) -> Path:
    """Pictures of a brightness and a color that their texts name; a csv names the pictures from its own folder."""
    generator = random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = ["image,text"]
    for number in range(rows):
        good, word = number % 2, generator.randrange(5)
        color = [40 * word + generator.randrange(20) + 30 * good, 200 * good, 200 - 40 * word]
        Image.new("RGB", (20, 20), tuple(color)).save(folder / "images" / f"{seed}-{number}.png")
        caption = f"a {(GOOD if good else BAD)[word]} {FILLER[number % 10]} {generator.choice(FILLER)}"
        lines.append(f"images/{seed}-{number}.png,{caption}")
    path = folder / f"pictures-{seed}.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sentence(generator: random.Random, positive: bool) -> str:
    words = generator.choices(FILLER, k=5) + generator.choices(GOOD if positive else BAD, k=2)
    generator.shuffle(words)
    return " ".join(words)


def save_csv(path: Path, rows: int = 40, seed: int = 0, header: str = "text,label", **columns: list) -> Path:
    """Sentences with the class pos or neg; other columns replace or join them."""
    generator = random.Random(seed)
    texts = [sentence(generator, i % 2 == 1) for i in range(rows)]
    names = header.split(",")
    table = {names[0]: texts, names[1]: ["pos" if i % 2 else "neg" for i in range(rows)], **columns}
    lines = [",".join(table), *(",".join(str(values[i]) for values in table.values()) for i in range(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))
