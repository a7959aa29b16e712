"""Real few-shot tasks for a pretrained sentence encoder (MiniLM), drawn again for every seed.

`simlex`: SimLex-999, human similarity of word pairs; the cosine of the pooled words is regressed on the score / 10.
`wordsim`: WordSim-353, the same with human scores of relatedness.
`rare_words`: Stanford's Rare Words, the same with similarity of words that are rare in texts.
`men`: MEN, the same with relatedness of words that tag images.
`rotten_tomatoes`: short film reviews, two classes, from a trained linear head on the pooled sentence.
`stsb`: STS-B, human similarity of sentence pairs; both sentences are read together, a linear head gives the score / 5.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from benchmarks.few_shot.tasks.base import (
    Parts,
    PooledEncoder,
    Task,
    TaskSettings,
    data_folder,
    draw,
    embed,
    split_by_seed,
)
from benchmarks.packages import MINILM, packaged_file
from benchmarks.reviews import draw_balanced, load_reviews

WORDS = ("gensim", "4.4.0", "gensim/test/test_data")


def correlation(statistic: Callable[..., Any], predicted: np.ndarray, target: np.ndarray) -> float:
    """Compute a correlation; 0 for predictions that are all alike or not finite, which have none.

    >>> correlation(stats.pearsonr, np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    0.0
    """
    usable = np.isfinite(predicted).all() and np.ptp(predicted) > 0
    return float(statistic(predicted, target).statistic) if usable else 0.0


def word_rows(file: Path) -> list[list[str]]:
    """Read lines of two words and a score; more fields may follow, and lines with # in front are comments."""
    lines = file.read_text(encoding="utf8").splitlines()
    return [line.split() for line in lines if line.strip() and line[0] != "#"]


class EncoderTask(Task):
    """A task of MiniLM with mean pooling."""

    num_outputs: int
    targets: np.ndarray  # scores in [0, 1], of the tasks that have scores
    adapted_layers = r".*encoder.*\.(query|key|value|dense)$"  # every linear layer of the encoder
    word_embedding = r".*word_embeddings"
    separates_texts = False

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.folder = str(packaged_file(*MINILM))
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    def model(self, seed: int) -> PooledEncoder:
        encoder = AutoModel.from_pretrained(self.folder, add_pooling_layer=False, dtype=torch.float32)
        torch.manual_seed(seed)
        separator = self.tokenizer.sep_token_id if self.separates_texts else None
        model = PooledEncoder(encoder, self.num_outputs, separator)
        if self.settings.head_rate == 0:
            model.head.requires_grad_(False)
        return model

    def training_targets(self, chosen: np.ndarray, seed: int) -> Tensor:
        """Add the noise of the settings, which depends on the seed alone, to the scores to train on."""
        noise = np.random.default_rng([seed, 2]).normal(0, self.settings.noise, len(self.targets))
        return torch.tensor((self.targets + noise)[chosen], dtype=torch.float32)


class WordPairs(EncoderTask):
    """Human similarity of word pairs as the cosine of their embeddings; Spearman correlation."""

    metric, num_outputs = "Spearman correlation", 0
    file, highest_score = "simlex999.txt", 10

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        rows = word_rows(self.data_folder() / self.file)
        words = sorted({word for row in rows for word in row[:2]})
        number = {word: position for position, word in enumerate(words)}
        self.tokens = self.tokenizer(words)["input_ids"]
        self.pairs = np.array([[number[row[0]], number[row[1]]] for row in rows])
        self.targets = np.array([float(row[2]) / self.highest_score for row in rows])

    def data_folder(self) -> Path:
        return packaged_file(*WORDS)

    def split(self, seed: int) -> Parts:
        return split_by_seed(len(self.pairs), self.settings, seed)

    def loss(self, model: PooledEncoder, chosen: np.ndarray, seed: int) -> Tensor:
        words = model([self.tokens[word] for word in self.pairs[chosen].T.ravel()])
        return F.mse_loss(F.cosine_similarity(*words.chunk(2)), self.training_targets(chosen, seed))

    def score(self, model: PooledEncoder, parts: Parts) -> dict[str, float]:
        needed, place = np.unique(self.pairs[np.concatenate(list(parts.values()))], return_inverse=True)
        words = embed(model, [self.tokens[word] for word in needed])[torch.from_numpy(place.reshape(-1, 2))]
        similar = F.cosine_similarity(words[:, 0], words[:, 1]).numpy()
        scores, start = {}, 0
        for name, part in parts.items():
            scores[name] = correlation(stats.spearmanr, similar[start : start + len(part)], self.targets[part])
            start += len(part)
        return scores


class RelatedWords(WordPairs):
    """WordSim-353: relatedness (coast, hill) besides similarity (coast, shore)."""

    file = "wordsim353.tsv"


class RareWords(WordPairs):
    """Stanford's Rare Words (Luong, Socher and Manning, 2013): 2,034 pairs."""

    file, name = "rareword.txt", "Stanford's Rare Words"

    def data_folder(self) -> Path:
        return data_folder("WORD_PAIRS_FOLDER", self.name, (self.file,))


class ImageTags(RareWords):
    """MEN (Bruni, Tran and Baroni, 2014): relatedness of 3,000 pairs of words that tag images."""

    file, name, highest_score = "men.txt", "MEN", 50


class Reviews(EncoderTask):
    """Two classes of short film reviews; accuracy."""

    metric, num_outputs, likelihood = "accuracy", 2, True

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        reviews = load_reviews()
        tokens = self.tokenizer(reviews.texts)["input_ids"]
        lengths = range(settings.min_tokens, settings.max_tokens + 1)
        chosen = np.array([number for number, t in enumerate(tokens) if len(t) in lengths])
        self.reviews = reviews.select(chosen)
        self.tokens = [tokens[number] for number in chosen]

    def split(self, seed: int) -> Parts:
        parts = split_by_seed(len(self.tokens), self.settings, seed)
        rest = np.setdiff1d(np.arange(len(self.tokens)), np.concatenate([parts["validation"], parts["test"]]))
        numbers = {text: number for number, text in enumerate(self.reviews.texts)}
        drawn = draw_balanced(self.reviews.select(rest), self.settings.samples, seed)
        return parts | {"train": np.array([numbers[text] for text in drawn.texts])}

    def loss(self, model: PooledEncoder, chosen: np.ndarray, seed: int) -> Tensor:
        wrong = np.random.default_rng([seed, 2]).random(len(self.tokens)) < self.settings.noise
        labels = np.where(wrong, 1 - self.reviews.labels, self.reviews.labels)
        return F.cross_entropy(model([self.tokens[i] for i in chosen]), torch.tensor(labels[chosen]))

    def score(self, model: PooledEncoder, parts: Parts) -> dict[str, float]:
        scores = {}
        for name, part in parts.items():
            predicted = embed(model, [self.tokens[i] for i in part]).argmax(1).numpy()
            scores[name] = float((predicted == self.reviews.labels[part]).mean())
        return scores


class SentencePairs(EncoderTask):
    """Human similarity of sentence pairs from a cross-encoder; Pearson correlation. The usual parts of STS-B."""

    metric, num_outputs = "Pearson correlation", 1
    separates_texts = True
    files = ("sts-train.csv", "sts-dev.csv", "sts-test.csv")  # where training, validation and test examples are from

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        folder = data_folder("STSB_FOLDER", "STS-B", self.files)
        self.tokens: list[list[int]] = []
        self.parts, targets = [], []
        for file in self.files:
            rows = _stsb_rows(folder / file)
            tokens = self.tokenizer([row[5] for row in rows], [row[6] for row in rows])["input_ids"]
            short = [i for i, pair in enumerate(tokens) if len(pair) <= settings.max_tokens]
            self.parts.append(np.arange(len(self.tokens), len(self.tokens) + len(short)))
            self.tokens += [tokens[i] for i in short]
            targets += [float(rows[i][4]) / 5 for i in short]
        self.targets = np.array(targets)

    def split(self, seed: int) -> Parts:
        generator, wanted = np.random.default_rng(seed), self.settings
        train, validation, test = self.parts
        return {
            "train": draw(train, wanted.samples, generator),
            "validation": draw(validation, wanted.validation, np.random.default_rng(0)),
            "test": draw(test, wanted.test, generator),
        }

    def loss(self, model: PooledEncoder, chosen: np.ndarray, seed: int) -> Tensor:
        predicted = model([self.tokens[i] for i in chosen])[:, 0]
        return F.mse_loss(predicted, self.training_targets(chosen, seed))

    def score(self, model: PooledEncoder, parts: Parts) -> dict[str, float]:
        scores = {}
        for name, part in parts.items():
            predicted = embed(model, [self.tokens[i] for i in part])[:, 0].numpy()
            scores[name] = correlation(stats.pearsonr, predicted, self.targets[part])
        return scores


def _stsb_rows(file: Path) -> list[list[str]]:
    """Read lines of genre, file, year, number, score in [0, 5], first and second sentence; sources may follow."""
    with file.open(encoding="utf8", newline="") as lines:
        return [row for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) >= 7]
