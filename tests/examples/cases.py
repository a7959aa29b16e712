"""The examples as modules, and data and models that are small enough to run them in seconds."""

from __future__ import annotations

import gzip
import importlib.util
import re
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.paths import ROOT

EXAMPLES = ROOT / "examples"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = "the a film plot actor scene was is that good great fine bad awful poor red blue fox hen owl :".split()


def load(name: str) -> ModuleType:
    """Import `examples/NAME.py` anew, without running it."""
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def run(module: ModuleType, monkeypatch, *words: object) -> int:
    """Run an example as its command line does; returns the exit status."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words)])
    return module.main() or 0


def prints_as_documented(module: ModuleType, printed: str) -> bool:
    """Whether the lines that the docstring says are printed appear, up to their numbers."""
    blocks = re.findall(r"prints[^\n]*\n\n((?:    .*\n)+)", module.__doc__ or "")
    shown = [line.strip() for block in blocks for line in block.splitlines()]
    number = r"[\\d.e%+-]+"
    patterns = [re.sub(r"\d[\d.e%+-]*", number, re.escape(line).replace(r"\.\.\.", "[ ]*0")) for line in shown]
    return bool(patterns) and all(re.search(pattern.replace("[ ]*", " *"), printed) for pattern in patterns)


def write_tokenizer(folder: Path) -> int:
    """Write a tokenizer of whole words; returns the size of its vocabulary."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS, *map(str, range(60))])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="[SEP]", model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(str(folder))  # fmt: skip
    return len(vocabulary)


def encoder(folder: Path) -> Path:
    """Write a random BERT of two layers with its tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=write_tokenizer(folder), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(str(folder))
    return folder


def language_model(folder: Path) -> Path:
    """Write a random Llama of two layers with its tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=write_tokenizer(folder), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, bos_token_id=2, eos_token_id=3,
        pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


def sentences(file: Path, count: int = 400) -> Path:
    """Write distinct sentences with two words that tell the class."""
    telling = (("bad", "awful"), ("good", "great"))
    rows = [f"the film {number % 60} was {number // 60} {' '.join(telling[number % 2])},{number % 2}"
            for number in range(count)]  # fmt: skip
    file.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf8")
    return file


def facts(file: Path, count: int = 60) -> Path:
    """Write texts and continuations of equal length, so that a mean over batches is a mean over tokens."""
    rows = [f"red fox {number},the fox is {number}" for number in range(count)]
    file.write_text("\n".join(["text,target", *rows]) + "\n", encoding="utf8")
    return file


def emoji_features(file: Path, count: int = 60) -> Path:
    """Write what `modality_gap_features.py` does: captions, and one image feature of each for every vendor."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(count, 24, generator=generator)
    images = {
        name: shared + 0.1 * torch.randn(count, 24, generator=generator) for name in ("google", "twitter", "fluent")
    }
    torch.save({"captions": [f"the film {number} was good" for number in range(count)], **images}, file)
    return file


def fashion_mnist(folder: Path, count: int = 200) -> Path:
    """Write ten classes of noise with a bright row that tells the class, in the format of Fashion-MNIST."""
    generator = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = generator.permutation(np.arange(count) % 10).astype(np.uint8)
        pixels = generator.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        pixels[np.arange(count), 2 * labels + 3] = 250
        for kind, content in (
            ("images-idx3", struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes()),
            ("labels-idx1", struct.pack(">2i", 2049, count) + labels.tobytes()),
        ):
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(content)
    return folder


def words_of(folder: Path) -> dict[str, list[str]]:
    """Write small inputs, and return what the examples that train with Trainer take them by."""
    bert, llama = encoder(folder / "encoder"), language_model(folder / "llama")
    reviews, pairs, features = folder / "reviews.csv", folder / "facts.csv", folder / "features.pt"
    few = [
        "--model",
        bert,
        "--dataset",
        sentences(reviews),
        "--rates",
        "1e-3",
        "0.1",
        "--ranks",
        "2",
        "--max_steps",
        "3",
        "--seeds",
        "0",
    ]
    causal = ["--model", llama, "--train_file", facts(pairs), "--num_heldout_samples", "16", "--max_steps", "6"]
    gap = ["--text_model", bert, "--features", emoji_features(features), "--num_test", "20", "--max_steps", "4"]
    gap += ["--per_device_train_batch_size", "16", "--methods", "learned, from 0.07", "soft swap, 0.05"]
    causal += ["--logging_steps", "1"]
    found = {"nothing_to_tune": few, "causal_lm": causal, "modality_gap": gap}
    return {name: list(map(str, words)) for name, words in found.items()}
