"""Words as tokens, and the word that each token belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.errors import UsageError

_BETWEEN = -1  # the word of a character between words


def encode_words(
    rows: Sequence[Sequence[str]], tokenizer: Any, max_length: int
) -> tuple[dict[str, list[Any]], list[list[int | None]]]:
    """Encode the words of each row as the tokens of the running text, with a space between words.

    Encoded one by one, words would lose their space where it is a part of the token, as for GPT-2, RoBERTa and Llama.

    Args:
        rows: words of each row.
        tokenizer: that knows where in the text its tokens stand.
        max_length: tokens after which a row ends.

    Returns:
        What the model takes, and for each token the number of the word that begins with it, or None.

    Raises:
        UsageError: the tokenizer is written in Python, and does not know where its tokens stand.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} does not tell which word a token belongs to; tags for words need a model with "
            "a fast tokenizer (tokenizer.json)"
        )
    texts = [" ".join(words) for words in rows]
    encoded = dict(tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True))
    offsets = encoded.pop("offset_mapping")
    return encoded, [_first_tokens(words, own) for words, own in zip(rows, offsets, strict=True)]


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return for each token the number of the word of which it is the first one."""
    lengths = [len(word) for word in words]
    # One place more for the space after each word; those of spaces belong to no word.
    owner = np.repeat(np.arange(len(words)), [length + 1 for length in lengths])
    owner[np.cumsum([length + 1 for length in lengths], dtype=np.int64) - 1] = _BETWEEN
    found: list[int | None] = []
    seen = -1
    for start, end in offsets:
        held = owner[start:end]
        own = int(held[held != _BETWEEN][0]) if (held != _BETWEEN).any() else -1
        found.append(own if own > seen else None)
        seen = max(seen, own)
    return found
