"""Sizes of small models with tied embeddings, and what moves and compares them."""

from __future__ import annotations

import torch
from torch import nn

from tests.models import VOCABULARY

PAIR = {
    "vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "pad_token_id": 0,
    "max_position_embeddings": 16, "scale_embedding": True,
}  # fmt: skip
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16,
}  # fmt: skip


@torch.no_grad()
def trained_(model: nn.Module, seed: int = 3) -> nn.Module:
    """Move every trained tensor, once."""
    torch.manual_seed(seed)
    for tensor in model.parameters():
        if tensor.requires_grad:
            tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Up to the rounding of one addition to each weight, through a layer or two."""
    return torch.allclose(one, other, rtol=0, atol=1e3 * torch.finfo(torch.float32).eps * other.abs().max().item())
