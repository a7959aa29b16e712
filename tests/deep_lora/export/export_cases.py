"""Models with trained-looking adapters of every kind, for the tests of the export."""

from __future__ import annotations

import copy

import torch
from peft import PeftModel
from torch import Tensor, nn

from tests.models import (
    LAYER_CASES,
    LINEAR,
    PIXELS,
    VECTORS,
    Mixed,
    Nest,
    Pixels,
    adapt,
    bert_classifier,
    disturb_,
    gpt2,
    ids,
    llama,
)  # fmt: skip

TOKENS = {"embedding": [1, 5, 9]}
CASES = LAYER_CASES | {
    "gpt2 by default": (gpt2, ids(), {"target_modules": ["c_attn"]}),
    "embedding and linear": (Mixed, ids(), {"target_modules": ["embedding", "square"]}),
    "conv2d and linear": (
        lambda: Pixels(groups=1, dilation=1), PIXELS, {"target_modules": ["first", "grouped", "head"]},
    ),
    "experts and matrix": (Nest, VECTORS, {"target_modules": [], "target_parameters": ["moe.experts", "moe.matrix"]}),
    "patterns": (
        Mixed, ids(),
        {
            "target_modules": ["embedding", *LINEAR],
            "rank_pattern": {"tall": 2, "wide": 6}, "depth_pattern": {"square": 1},
        },
    ),
    "narrow": (Mixed, ids(), {"target_modules": LINEAR, "variant": "narrow", "init_scale": 0.5, "depth": 4}),
    "wide": (Mixed, ids(), {"target_modules": LINEAR, "variant": "wide", "init_scale": 0.5}),
    "saved modules": (Mixed, ids(), {"target_modules": LINEAR, "modules_to_save": ["head", "norm"]}),
    "own biases": (Mixed, ids(), {"target_modules": LINEAR, "bias": "deep_lora_only"}),
    "all biases": (Mixed, ids(), {"target_modules": LINEAR, "bias": "all"}),
    "token rows": (Mixed, ids(), {"target_modules": LINEAR, "trainable_token_indices": TOKENS}),
    "classifier": (
        bert_classifier, ids(), {"target_modules": ["query", "dense", "word_embeddings"], "task_type": "SEQ_CLS"},
    ),
    "tied": (
        lambda: llama(tie_word_embeddings=True), ids(),
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "ensure_weight_tying": True},
    ),
    "tied, an embedding of another name": (
        gpt2, ids(), {"target_modules": ["wte", "c_attn"], "ensure_weight_tying": True},
    ),
    "tied, by a pattern": (
        gpt2, ids(), {"target_modules": r".*(wte|c_attn)", "ensure_weight_tying": True},
    ),
}  # fmt: skip


def out(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(x)
    return getattr(output, "logits", output)


def trained(case: str) -> tuple[nn.Module, Tensor, PeftModel]:
    """The bare model, an input, and the model with an adapter (and all else that trains) away from its start."""
    build, x, settings = CASES[case]
    base = build().eval()
    model = adapt(copy.deepcopy(base), r=4, **settings)
    if settings.get("variant") is None:
        disturb_(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "deep_lora_" not in name:
                p.add_(torch.randn_like(p) / 10)
    return base, x, model


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()
