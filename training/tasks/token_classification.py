"""A tag for each word of a sentence."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, EvalPrediction

from training.data import Splits
from training.errors import UsageError
from training.job import IGNORED, Task
from training.reading.lists import NO_TAG, tags, words
from training.reading.tables import Wanted
from training.reading.visible import is_blank
from training.settings.data import TextDataArguments
from training.tasks.base import CUT, adapter_task, classes_of, logits_of, replace_columns
from training.tasks.entities import ENTITY_METRICS, are_entities, score_entities
from training.tasks.labels import label_settings, tell_of_alike
from training.tasks.metrics import scorer
from training.tasks.words import encode_words

_FEW = 10  # rows that may be single words by chance
_MANY = 20  # tags, beyond which most stand at several words


def tag_columns(data: TextDataArguments) -> list[Wanted]:
    """Return the columns of the task."""
    return [Wanted(data.text_column, words, "--text_column"), Wanted(tag_column(data), tags, "--label_column")]


def tag_column(data: TextDataArguments) -> str:
    """Return the column with the tags."""
    return data.label_column or "tags"


def row_tags(column: str) -> Callable[[Dataset], Sequence[Sequence[str]]]:
    """Return the function that `training.data.load_splits` takes for several tags in each row."""
    return lambda split: [sorted(set(row) - {NO_TAG}) for row in split[column]]


def token_classification(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of one of several tags for each word; words and tags are lists, or texts separated by spaces.

    The tag sits on the first token of a word. Metrics count words, or entities where tags are B-NAME, I-NAME and O.
    A word whose tag is -100 has none.

    Raises:
        UsageError: there is one tag only, a split has others than training, or a metric does not fit.
    """
    column = tag_column(data)
    counts = {
        name: Counter(tag for row in split[column] for tag in row if tag != NO_TAG) for name, split in splits.items()
    }
    names = _tag_names(counts, column)
    _tell_of_single_words(splits["train"][column])
    _tell_of_blank_words(splits["train"][data.text_column])
    numbers = {tag: number for number, tag in enumerate(names)} | {NO_TAG: IGNORED}
    chosen = data.metrics or [*(ENTITY_METRICS if are_entities(names) else ()), "accuracy", "f1_macro"]
    if (wrong := sorted(set(chosen) & set(ENTITY_METRICS))) and not are_entities(names):
        raise UsageError(f"{wrong[0]} needs tags such as B-NAME, I-NAME and O, but they are {names[:5]}; leave it out")
    of_words = [name for name in chosen if name not in ENTITY_METRICS]
    score = scorer(of_words, metric_source, classes=len(names))

    def score_tags(prediction: EvalPrediction) -> dict[str, float]:
        references, found = np.asarray(prediction.label_ids), logits_of(prediction).argmax(-1)
        kept = references != IGNORED
        scores = score(*classes_of(prediction))
        if len(of_words) < len(chosen):
            scores |= score_entities(_named(found, kept, names), _named(references, kept, names))
        return {name: scores[name] for name in chosen}

    def encode(splits: Splits, tokenizer: Any) -> Splits:
        return replace_columns(splits, lambda rows: _encode(rows, tokenizer, data, column, numbers), "words")

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
        main_metric=chosen[0],
        scores=tuple(chosen),
        classes_of=classes_of,
        counts={name: {tag: held[tag] for tag in names} for name, held in counts.items()},
    )


def _tell_of_single_words(rows: Sequence[Sequence[str]]) -> None:
    """Warn where each row is one word, as in tables with a word in each line, whose sentences are taken apart."""
    if len(rows) > _FEW and all(len(row) == 1 for row in rows):
        warnings.warn(
            f"each of the {len(rows):,} train rows is one word; if they are the words of sentences, put those of a "
            "sentence in one row, or save them as .conll with an empty line after each sentence",
            stacklevel=3,
        )


def _tell_of_blank_words(rows: Sequence[Sequence[str]]) -> None:
    """Warn of words without a visible character: tokenizers drop them, and their tags with them."""
    if blank := sum(is_blank(word) for row in rows for word in row):
        warnings.warn(
            f"{blank:,} words of the train data have no visible character; most tokenizers make no token of them, and "
            "then their tags are neither learned nor scored",
            stacklevel=3,
        )


def _tag_names(counts: dict[str, Counter[str]], column: str) -> list[str]:
    names = sorted(counts["train"])
    if len(names) < 2:
        raise UsageError(f"column {column!r} holds {len(names)} tag ({names}); at least 2 are needed")
    tell_of_alike(names, column)
    single = sum(number == 1 for number in counts["train"].values())
    if len(names) > _MANY and 2 * single > len(names):
        warnings.warn(
            f"{len(names):,} different tags in the column {column!r}, {single:,} of which occur only once, "
            "are hardly tags; if they are words, choose the right column with --label_column (in .conll files the "
            "first field of a line is the word, and the last one its tag)",
            stacklevel=3,
        )
    for name, held in counts.items():
        if unknown := sorted(held.keys() - counts["train"].keys()):
            raise UsageError(f"the {name} data hold tags that the training data do not have: {unknown[:5]}")
    return names


def _named(numbers: np.ndarray, kept: np.ndarray, names: list[str]) -> list[list[str]]:
    """Return the tags of the words of each row."""
    return [[names[number] for number in row[mask]] for row, mask in zip(numbers, kept, strict=True)]


def _encode(
    rows: dict[str, list], tokenizer: Any, data: TextDataArguments, column: str, numbers: dict[str, int]
) -> dict[str, list]:
    encoded, first = encode_words(rows[data.text_column], tokenizer, data.length)
    labels = [
        [IGNORED if word is None else numbers[own[word]] for word in begun]
        for own, begun in zip(rows[column], first, strict=True)
    ]
    lost = [
        len(own) - 1 - max((word for word in begun if word is not None), default=-1)
        for own, begun in zip(rows[column], first, strict=True)
    ]
    return {**encoded, "labels": labels, CUT: lost}
