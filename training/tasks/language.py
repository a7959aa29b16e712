"""Text generation: causal language models, and models that turn one text into another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from transformers import DataCollatorForSeq2Seq

from training.data import Splits
from training.errors import UsageError
from training.job import Task
from training.settings.data import TextDataArguments
from training.tasks.base import CUT, adapter_task, encode_texts, replace_columns
from training.tasks.continuation import causal_task, encode_continuations
from training.tasks.metrics import TOKEN_METRICS, score_tokens, token_sums
from training.tasks.text_metrics import TEXT_METRICS, text_scorer
from training.trainer.general_text import PANELS, watchers
from training.trainer.generating import GeneratingTrainer, Generation
from training.trainer.trainer import AdapterTrainer


def causal_lm(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of the next token of a text; with a target column, only of the target."""

    def encode(splits: Splits, tokenizer: Any) -> Splits:
        def encode_rows(rows: dict[str, list]) -> dict[str, list]:
            targets = rows[data.target_column] if data.target_column else None
            return encode_continuations(rows[data.text_column], targets, tokenizer, data.length)

        return replace_columns(splits, encode_rows, "tokens")

    return causal_task(
        name="causal_lm",
        splits=splits,
        encode=encode,
        collate=lambda tokenizer, model: DataCollatorForSeq2Seq(tokenizer),
        score=score_tokens,
        reduce_logits=lambda logits, labels: token_sums(_first(logits)[:, :-1], labels[:, 1:]),
        main_metric="perplexity",
        scores=TOKEN_METRICS,
        panels=(("perplexity",), *PANELS),
        watchers=watchers(data),
    )


def seq2seq(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of a target text for each text. Metrics are of its tokens, given the true ones before.

    With `predict_with_generate` there are also metrics of texts that the model writes by itself.

    Raises:
        UsageError: no target column was named.
    """
    if data.target_column is None:
        raise UsageError("--task seq2seq needs --target_column, the column with the text to generate")
    target = data.target_column

    def encode_rows(rows: dict[str, list], tokenizer: Any) -> dict[str, list]:
        encoded, lost = encode_texts(tokenizer, rows[data.text_column], max_length=data.length)

        def encode_target(texts: list[str], **settings: Any) -> Any:
            return tokenizer(text_target=texts, **settings)

        targets, lost_of_targets = encode_texts(encode_target, rows[target], max_length=data.length)
        return {**encoded, "labels": targets["input_ids"], CUT: np.add(lost, lost_of_targets).tolist()}

    return adapter_task(
        name="seq2seq",
        auto_class="AutoModelForSeq2SeqLM",
        pipeline="text2text-generation",
        peft_task="SEQ_2_SEQ_LM",
        splits=splits,
        model_settings={},
        encode=lambda splits, tokenizer: replace_columns(splits, lambda rows: encode_rows(rows, tokenizer), "tokens"),
        collate=lambda tokenizer, model: DataCollatorForSeq2Seq(tokenizer, model=model),
        score=score_tokens,
        reduce_logits=lambda logits, labels: token_sums(_first(logits), labels),
        main_metric="perplexity",
        scores=(*TOKEN_METRICS, *(TEXT_METRICS if data.predict_with_generate else ())),
        trainer_class=_generating(data, metric_source) if data.predict_with_generate else AdapterTrainer,
        generates=data.predict_with_generate,
    )


def _generating(data: TextDataArguments, metric_source: str) -> Callable[..., GeneratingTrainer]:
    length = data.length if data.max_new_tokens is None else data.max_new_tokens
    generation = Generation({"num_beams": data.num_beams, "max_new_tokens": length}, text_scorer(metric_source))
    return partial(GeneratingTrainer, generation=generation)


def _first(logits: Any) -> Tensor:
    return logits[0] if isinstance(logits, tuple) else logits
