"""Adapters of every kind that servers treat differently, and what each program does with them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from deep_lora import DeepLoraConfig
from tests.models import bert_classifier, llama

QV = ["q_proj", "v_proj"]
# Settings of LoRA on a tiny Llama, and who refuses it; PEFT and transformers take all of these.
CASES: dict[str, tuple[dict, set[str]]] = {
    "plain": ({}, set()),
    "all linear layers": ({"target_modules": "all-linear"}, set()),
    "a regular expression": ({"target_modules": r".*self_attn\.(q|v)_proj"}, {"SGLang"}),
    "ranks of their own": (
        {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 2}},
        {"SGLang", "TGI"},
    ),
    "a trained head": ({"modules_to_save": ["lm_head"]}, {"vLLM", "SGLang", "TGI", "llama.cpp"}),
    "trained biases": ({"bias": "lora_only"}, {"vLLM"}),
    "token rows": ({"trainable_token_indices": [1, 3]}, {"vLLM", "SGLang", "TGI", "llama.cpp"}),
    "embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, {"TGI", "llama.cpp"}),
    "a head": ({"target_modules": ["q_proj", "lm_head"]}, set()),
    "DoRA": ({"use_dora": True}, {"vLLM", "SGLang", "TGI", "llama.cpp"}),
    "one block alone": ({"layers_to_transform": [0]}, {"TGI"}),
    "rank 600": ({"r": 600, "lora_alpha": 600}, {"vLLM"}),
    "a scale of its own": ({"alpha_pattern": {"layers.0.self_attn.q_proj": 16}}, {"vLLM", "SGLang", "TGI"}),
    "a rank and thus a scale of its own": (
        {"rank_pattern": {"layers.0.self_attn.q_proj": 2}},
        {"vLLM", "SGLang", "TGI"},
    ),
    "rsLoRA": ({"use_rslora": True}, {"SGLang"}),
    "a norm": ({"modules_to_save": ["norm"]}, {"vLLM", "SGLang", "TGI", "llama.cpp"}),
}
ALWAYS = {"sentence-transformers": "no tokenizer", "diffusers": "does not read PEFT's folders"}


def save(folder: Path, case: str) -> Path:
    """Write the adapter of a case, as PEFT does."""
    settings = {"r": 4, "lora_alpha": 4, "target_modules": QV, "task_type": "CAUSAL_LM"} | CASES[case][0]
    base = llama(tie_word_embeddings=False)
    base.name_or_path = base.config.name_or_path = "me/base"
    model = get_peft_model(base, LoraConfig(**settings))
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def save_classifier(folder: Path) -> Path:
    """An encoder with a head that was trained whole."""
    base = bert_classifier()
    base.name_or_path = base.config.name_or_path = "me/base"
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["query"], task_type="SEQ_CLS")
    get_peft_model(base, config).save_pretrained(str(folder))
    return folder


def save_deep_lora(folder: Path) -> Path:
    torch.manual_seed(0)
    get_peft_model(nn.Sequential(nn.Linear(4, 4)), DeepLoraConfig(r=2, target_modules=["0"])).save_pretrained(folder)
    return folder


def with_fields(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
