"""Texts that a model generates while it is evaluated, and `AdapterTrainer` with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from training.job import IGNORED
from training.trainer.trainer import AdapterTrainer


@dataclass(frozen=True)
class Generation:
    """How texts are generated at evaluation, and how they are scored.

    Attributes:
        settings: arguments of `model.generate`.
        score: generated texts, reference texts -> metrics.
    """

    settings: dict[str, int]
    score: Callable[[Sequence[str], Sequence[str]], dict[str, float]]

    def scorer(
        self, tokenizer: Any, score_sums: Callable[[EvalPrediction], dict[str, float]]
    ) -> Callable[[EvalPrediction], dict[str, float]]:
        """Return the metrics of predictions that are pairs: what `score_sums` takes, and the generated tokens."""

        def score(prediction: EvalPrediction) -> dict[str, float]:
            sums, tokens = prediction.predictions
            metrics = score_sums(EvalPrediction(predictions=sums, label_ids=prediction.label_ids))
            return metrics | self.score(decode(tokens, tokenizer), decode(prediction.label_ids, tokenizer))

        return score


def decode(tokens: np.ndarray, tokenizer: Any) -> list[str]:
    """Return the texts of rows of tokens, without special tokens and -100, with which Trainer fills rows up."""
    filled = np.where(tokens == IGNORED, tokenizer.pad_token_id, tokens)
    return [text.strip() for text in tokenizer.batch_decode(filled, skip_special_tokens=True)]


def keep_tokens(reduce: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], tuple[Tensor, Tensor]]:
    """Return `reduce` for the logits of a pair of logits and generated tokens; the tokens stay."""
    return lambda pair, labels: (reduce(pair[0], labels), pair[1])


class GeneratingTrainer(AdapterTrainer):
    """`AdapterTrainer` that also lets the model generate at evaluation.

    Its predictions are pairs of logits and generated tokens, without the first token, which starts the decoder.

    Args:
        generation: how.
        processing_class: the tokenizer.
        compute_metrics: metrics of the logits, after `preprocess_logits_for_metrics`.
        preprocess_logits_for_metrics: logits, labels -> what is kept of the logits.
    """

    def __init__(
        self,
        *args: Any,
        generation: Generation,
        processing_class: Any,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]],
        preprocess_logits_for_metrics: Callable[[Any, Tensor], Tensor],
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            processing_class=processing_class,
            compute_metrics=generation.scorer(processing_class, compute_metrics),
            preprocess_logits_for_metrics=keep_tokens(preprocess_logits_for_metrics),
            **kwargs,
        )
        self.generation = generation.settings

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """Run Trainer's step, and generate from the inputs without the labels."""
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if prediction_loss_only or logits is None:
            return loss, logits, labels
        first = logits[0] if isinstance(logits, tuple) else logits
        return loss, (first, self.generate(inputs)), labels

    @torch.no_grad()
    def generate(self, inputs: dict[str, Any]) -> Tensor:
        """Return generated tokens (rows x longest), with padding after the end of a text.

        Where weights are sharded over the processes, each continues until all are done.
        """
        inputs = self._prepare_inputs({name: inputs[name] for name in ("input_ids", "attention_mask")})
        model: Any = self.accelerator.unwrap_model(self.model)
        sharded = is_deepspeed_zero3_enabled() or self.is_fsdp_enabled
        return model.generate(**inputs, **self.generation, do_sample=False, synced_gpus=sharded)[:, 1:]
