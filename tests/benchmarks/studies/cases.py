"""Made-up pairs of images and captions, and a task with a random text tower."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from benchmarks.studies.modality_gap.emoji_pairs import VENDORS, Pairs, split_concepts
from benchmarks.studies.modality_gap.training import Task, make_task


def synthetic_pairs(concepts: int = 120, tokens: int = 4, hidden: int = 32, width: int = 24, seed: int = 0) -> Pairs:
    """Make pairs from shared latent vectors."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(concepts, 8, generator=generator)

    def seen_through(size: int) -> Tensor:
        return latent @ torch.randn(8, size, generator=generator) / 3 + torch.randn(size, generator=generator)

    base = seen_through(width)
    images = {vendor: base + 0.1 * torch.randn(concepts, width, generator=generator) for vendor in VENDORS}
    drawn = {vendor: torch.ones(concepts, dtype=torch.bool) for vendor in VENDORS}
    states = torch.stack([seen_through(hidden) for _ in range(tokens)], 1)
    mask = torch.ones(concepts, tokens, dtype=torch.bool)
    return Pairs([f"concept {i}" for i in range(concepts)], images, drawn, states, mask, torch.arange(concepts))


def made_up_task(seed: int = 0) -> Task:
    """Make a task of made-up pairs with a random text tower."""
    torch.manual_seed(seed)
    pairs = synthetic_pairs(seed=seed)
    config = BertConfig(
        vocab_size=2, hidden_size=pairs.states.shape[2], num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )  # fmt: skip
    return make_task(pairs, split_concepts(pairs, 20, 30, seed), BertModel(config).encoder.layer)
