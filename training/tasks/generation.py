"""Text that a model generates while it is evaluated, and its comparison with the text that was wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers import EvalPrediction

IGNORED = -100


@dataclass(frozen=True)
class Generation:
    """How texts are generated at evaluation, and how they are scored.

    Attributes:
        settings: arguments of `model.generate`.
        score: generated texts, texts that were wanted -> metrics.
    """

    settings: dict[str, int]
    score: Callable[[Sequence[str], Sequence[str]], dict[str, float]]

    def scorer(
        self, tokenizer: Any, score_sums: Callable[[EvalPrediction], dict[str, float]]
    ) -> Callable[[EvalPrediction], dict[str, float]]:
        """Metrics of predictions that are pairs: what `score_sums` takes, and the generated tokens."""

        def score(prediction: EvalPrediction) -> dict[str, float]:
            sums, tokens = prediction.predictions
            metrics = score_sums(EvalPrediction(predictions=sums, label_ids=prediction.label_ids))
            return metrics | self.score(decode(tokens, tokenizer), decode(prediction.label_ids, tokenizer))

        return score


def decode(tokens: np.ndarray, tokenizer: Any) -> list[str]:
    """The texts of rows of tokens; special tokens and -100, with which Trainer fills rows up, are left out."""
    filled = np.where(tokens == IGNORED, tokenizer.pad_token_id, tokens)
    return [text.strip() for text in tokenizer.batch_decode(filled, skip_special_tokens=True)]


def keep_tokens(reduce: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], tuple[Tensor, Tensor]]:
    """`reduce` for the logits of a pair of logits and generated tokens; the tokens stay."""
    return lambda pair, labels: (reduce(pair[0], labels), pair[1])
