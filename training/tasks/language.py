"""Text generation: causal language models, and models that turn one text into another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from transformers import DataCollatorForSeq2Seq

from training.data import Splits
from training.errors import UsageError
from training.job import IGNORED, Task
from training.settings.data import TextDataArguments
from training.tasks.base import adapter_task, replace_columns
from training.tasks.metrics import score_tokens, token_sums
from training.tasks.text_metrics import text_scorer
from training.trainer.generating import GeneratingTrainer, Generation
from training.trainer.trainer import AdapterTrainer


def causal_lm(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of the next token of a text; with a target column, of the target alone."""

    def encode(splits: Splits, tokenizer: Any) -> Splits:
        return replace_columns(splits, lambda rows: _encode_continuation(rows, tokenizer, data))

    return adapter_task(
        name="causal_lm",
        auto_class="AutoModelForCausalLM",
        pipeline="text-generation",
        peft_task="CAUSAL_LM",
        splits=splits,
        model_settings={},
        encode=encode,
        collate=lambda tokenizer, model: DataCollatorForSeq2Seq(tokenizer),
        score=score_tokens,
        reduce_logits=lambda logits, labels: token_sums(_first(logits)[:, :-1], labels[:, 1:]),
        main_metric="perplexity",
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
        settings = {"truncation": True, "max_length": data.max_length}
        return tokenizer(rows[data.text_column], text_target=rows[target], **settings)

    return adapter_task(
        name="seq2seq",
        auto_class="AutoModelForSeq2SeqLM",
        pipeline="text2text-generation",
        peft_task="SEQ_2_SEQ_LM",
        splits=splits,
        model_settings={},
        encode=lambda splits, tokenizer: replace_columns(splits, lambda rows: encode_rows(rows, tokenizer)),
        collate=lambda tokenizer, model: DataCollatorForSeq2Seq(tokenizer, model=model),
        score=score_tokens,
        reduce_logits=lambda logits, labels: token_sums(_first(logits), labels),
        main_metric="perplexity",
        trainer_class=_generating(data, metric_source) if data.predict_with_generate else AdapterTrainer,
        generates=data.predict_with_generate,
    )


def _generating(data: TextDataArguments, metric_source: str) -> Callable[..., GeneratingTrainer]:
    length = data.max_length if data.max_new_tokens is None else data.max_new_tokens
    generation = Generation({"num_beams": data.num_beams, "max_new_tokens": length}, text_scorer(metric_source))
    return partial(GeneratingTrainer, generation=generation)


def _first(logits: Any) -> Tensor:
    return logits[0] if isinstance(logits, tuple) else logits


def _encode_continuation(rows: dict[str, list], tokenizer: Any, data: TextDataArguments) -> dict[str, list]:
    ids, labels = [], []
    targets: list = rows[data.target_column] if data.target_column else [None] * len(rows[data.text_column])
    for text, target in zip(rows[data.text_column], targets, strict=True):
        prompt = tokenizer(text)["input_ids"]
        if target is None:
            whole, silent = [*prompt, tokenizer.eos_token_id], 0
        else:
            answer = tokenizer(target, add_special_tokens=False)["input_ids"]
            prompt = prompt[: data.max_length - min(len(answer) + 1, data.max_length // 2)]  # leave room to learn from
            whole, silent = [*prompt, *answer, tokenizer.eos_token_id], len(prompt)
        whole = [token for token in whole if token is not None][: data.max_length]
        ids.append(whole)
        labels.append([IGNORED] * min(silent, len(whole)) + whole[silent:])
    return {"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids], "labels": labels}
