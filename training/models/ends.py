"""Encoder-decoder classifiers (T5, BART) read the class at the end-of-sequence token, which each text needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from training.errors import UsageError


def require_ends(model: Any, rows: Sequence[Sequence[int]], token: str | None, what: str) -> None:
    """Raise if the model reads the class at the end-of-sequence token, and not all texts have equally many.

    Args:
        model: with or without an adapter.
        rows: encoded texts.
        token: that ends a sequence, as the tokenizer writes it.
        what: the texts are, such as "train texts".

    Raises:
        UsageError: the text says how many have none, or more than others.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not (base.config.is_encoder_decoder and type(base).__name__.endswith("ForSequenceClassification")):
        return
    counts = Counter(list(ids).count(base.config.eos_token_id) for ids in rows)
    (usual, _), *others = counts.most_common()
    if usual == 0:
        raise UsageError(
            f"{type(base).__name__} reads the class at the end-of-sequence token ({token}), and its tokenizer adds "
            f"none: {counts[0]:,} of {len(rows):,} {what} have none; pass a model whose tokenizer adds it, or one that "
            "needs none, such as BERT"
        )
    if others:
        raise UsageError(
            f"{sum(number for _, number in others):,} of {len(rows):,} {what} do not have {usual} of {token} as the "
            f"others do; {type(base).__name__} reads the class there: remove {token} from the texts themselves"
        )
