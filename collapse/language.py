"""Models of token sequences: which row of features belongs to which label."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from collapse.statistics import tensor_of

LOSS_TOLERANCE = 1e-3  # which may be in half precision


def next_token_pairs(features: Any, labels: Any) -> tuple[Float[Tensor, "batch t d"], Int[Tensor, "batch t"]]:
    """Pair the features of every token with the label of the next one, as the loss of a causal language model does.

    Transformers' labels of a causal model are its `input_ids`, not shifted, with -100 for padding; its head sees token
    t and predicts token t + 1. `neural_collapse(*next_token_pairs(hidden_states[-1], labels), lm_head.weight)` measures
    collapse with the vocabulary as classes.

    Args:
        features: (batch, tokens, d) of what enters the head.
        labels: (batch, tokens) of token ids; -100 is padding.

    Returns:
        Features (batch, tokens - 1, d), without those of the last token, and labels without those of the first.

    Raises:
        ValueError: for other shapes, or sequences of one token.

    >>> features, labels = next_token_pairs(torch.arange(3.0).view(1, 3, 1), [[7, 8, 9]])
    >>> features.flatten().tolist(), labels.tolist()
    ([0.0, 1.0], [[8, 9]])
    """
    features, labels = tensor_of(features, "features"), tensor_of(labels, "labels")
    if features.dim() != 3 or labels.shape != features.shape[:2] or labels.shape[1] < 2:
        raise ValueError(
            "next tokens need features (batch, tokens, d) and labels (batch, tokens) of at least two tokens, got "
            f"{tuple(features.shape)} and {tuple(labels.shape)}; pass whole sequences, neither flattened nor shifted"
        )
    return features[:, :-1], labels[:, 1:]


def last_token_rows(
    features: Float[Tensor, "batch tokens d"], input_ids: Int[Tensor, "batch tokens"] | None, pad_token_id: int | None
) -> Float[Tensor, "batch d"]:
    """Pick the row of each sequence's last token that is not padding, as decoder classifiers of transformers do.

    >>> features = torch.arange(6.0).view(2, 3, 1)
    >>> last_token_rows(features, torch.tensor([[5, 6, 0], [5, 6, 7]]), 0).flatten()
    tensor([1., 5.])
    """
    if input_ids is None or pad_token_id is None:
        return features[:, -1]
    positions = torch.arange(features.shape[1], device=features.device)
    last = (positions * (input_ids != pad_token_id).to(positions)).argmax(-1)
    return features[torch.arange(len(features), device=features.device), last]


def shifts_labels(model: nn.Module, output: Any, labels: Int[Tensor, "batch tokens"]) -> bool:
    """Tell whether the loss of a model shifts its labels, by its kind and by what it returned for a batch.

    Models that generate text and have no encoder (`GPT2LMHeadModel`, `*ForCausalLM`) shift them, but for some
    (`BartForCausalLM`, `XLNetLMHeadModel`); so if the loss is that of the labels as they are, they were not shifted.
    Masked language models, encoder-decoders and token classifiers do not shift.

    Args:
        model: a transformers model.
        output: what it returned.
        labels: that it had.

    >>> shifts_labels(nn.Linear(2, 2), None, torch.zeros(1, 3).long())
    False
    """
    config, can_generate = getattr(model, "config", None), getattr(model, "can_generate", None)
    if can_generate is None or not can_generate() or getattr(config, "is_encoder_decoder", False):
        return False
    logits, loss = getattr(output, "logits", None), getattr(output, "loss", None)
    if loss is None or logits is None or logits.shape[:-1] != labels.shape or labels.dim() != 2 or labels.shape[1] < 2:
        return True
    as_they_are, shifted = _loss(logits, labels), _loss(logits[:, :-1], labels[:, 1:])
    return not (_close(as_they_are, loss) and not _close(shifted, loss))


def _close(expected: Tensor, loss: Tensor) -> bool:
    return bool((expected - loss).abs() <= LOSS_TOLERANCE * loss.abs())


@torch.no_grad()
def _loss(logits: Float[Tensor, "batch tokens K"], labels: Int[Tensor, "batch tokens"]) -> Float[Tensor, ""]:
    """Compute the mean cross entropy, a sequence at a time: logits over a vocabulary are large."""
    labels = labels.to(logits.device)
    sums = [
        functional.cross_entropy(row.float(), own, reduction="sum") for row, own in zip(logits, labels, strict=True)
    ]
    return torch.stack(sums).sum() / (labels != -100).sum()
