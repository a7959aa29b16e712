"""A tag for each word of a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import ClassLabel
from transformers import DataCollatorForTokenClassification, EvalPrediction

from training.data import Splits, require_columns
from training.errors import UsageError
from training.job import IGNORED, Task
from training.settings.data import TextDataArguments
from training.tasks.base import adapter_task, logits_of, replace_columns
from training.tasks.labels import label_settings
from training.tasks.metrics import scorer


def token_classification(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of one of several tags for each word; words and tags are lists, or texts separated by spaces.

    The tag sits on the first token of a word. Metrics count words.

    Raises:
        UsageError: for missing columns, or a row with unequally many words and tags.
    """
    column = data.label_column or "tags"
    require_columns(splits, [data.text_column, column], "choose with --text_column and --label_column")
    for name, split in splits.items():
        _check_lengths(name, split[data.text_column], split[column])
    names = _tag_names(splits, column)
    numbers: dict[Any, int] = {tag: number for number, tag in enumerate(names)}
    if _declared(splits, column):
        numbers = {number: number for number in range(len(names))}
    metrics = data.metrics or ["accuracy", "f1_macro"]
    score = scorer(metrics, metric_source, classes=len(names))

    def score_tags(prediction: EvalPrediction) -> dict[str, float]:
        references = np.asarray(prediction.label_ids)
        kept = references != IGNORED
        return score(logits_of(prediction).argmax(-1)[kept], references[kept])

    def encode(splits: Splits, tokenizer: Any) -> Splits:
        return replace_columns(splits, lambda rows: _encode(rows, tokenizer, data, column, numbers))

    return adapter_task(
        name="token_classification",
        auto_class="AutoModelForTokenClassification",
        pipeline="token-classification",
        peft_task="TOKEN_CLS",
        splits=splits,
        model_settings=label_settings(names),
        encode=encode,
        collate=lambda tokenizer, model: DataCollatorForTokenClassification(tokenizer),
        score=score_tags,
        main_metric=metrics[0],
    )


def _words(entry: Any) -> list[Any]:
    return entry.split() if isinstance(entry, str) else list(entry)


def _check_lengths(name: str, texts: Any, tags: Any) -> None:
    for row, (words, marks) in enumerate(zip(texts, tags, strict=True)):
        if len(_words(words)) != len(_words(marks)):
            raise UsageError(
                f"row {row} of the {name} data has {len(_words(words))} words and {len(_words(marks))} tags; each word "
                "needs one tag (lists, or texts separated by spaces)"
            )


def _declared(splits: Splits, column: str) -> list[str] | None:
    inner = getattr(splits["train"].features[column], "feature", None)
    return list(inner.names) if isinstance(inner, ClassLabel) else None


def _tag_names(splits: Splits, column: str) -> list[str]:
    declared = _declared(splits, column)
    if declared:
        return declared
    found = {name: {tag for entry in split[column] for tag in _words(entry)} for name, split in splits.items()}
    for name, tags in found.items():
        if unknown := sorted(map(str, tags - found["train"])):
            raise UsageError(f"the {name} data hold tags that the training data do not have: {unknown[:5]}")
    names = sorted(found["train"])
    if len(names) < 2:
        raise UsageError(f"column {column!r} holds {len(names)} tag ({names}); at least 2 are needed")
    return names


def _encode(
    rows: dict[str, list], tokenizer: Any, data: TextDataArguments, column: str, numbers: dict[Any, int]
) -> dict[str, list]:
    sentences = [_words(entry) for entry in rows[data.text_column]]
    encoded = tokenizer(sentences, is_split_into_words=True, truncation=True, max_length=data.max_length)
    labels = []
    for row, entry in enumerate(rows[column]):
        tags, words = _words(entry), encoded.word_ids(row)
        first = [word is not None and word != previous for previous, word in zip([None, *words], words, strict=False)]
        labels.append(
            [numbers[tags[word]] if is_first else IGNORED for word, is_first in zip(words, first, strict=True)]
        )
    return {**encoded, "labels": labels}
