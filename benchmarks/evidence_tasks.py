"""Real few-shot tasks for a pretrained sentence encoder (MiniLM), drawn afresh for every seed.

`simlex`: SimLex-999, human similarity of word pairs; the cosine of the pooled words is regressed on the score / 10.
`rotten_tomatoes`: short film reviews, two classes, from a trained linear head on the pooled sentence.

Validation examples are the same for every seed and never in a test set. Training and test examples are drawn from all
others by the seed alone, and so are the order of batches, the head's start and the dropout: what differs between two
methods on one seed is the method.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from few_shot_arguments import FewShotArguments
from few_shot_data import DEFAULT_MODEL, draw_balanced, load_sentences
from packaged_files import packaged_file

SIMLEX = ("gensim", "4.4.0", "gensim/test/test_data/simlex999.txt")
EVALUATION_TOKENS = 1024
Parts = dict[str, np.ndarray]


@dataclass(frozen=True)
class TaskSettings:
    """What runs share; `noise` is the standard deviation of what is added to the training scores (word pairs only)."""

    name: str
    samples: int
    steps: int
    batch: int
    validation: int
    test: int
    evaluate_every: int
    max_tokens: int = 16
    head_rate: float = 1e-3
    noise: float = 0.0


class PooledEncoder(nn.Module):
    """The mean of the last hidden states, through a linear head if there is one."""

    def __init__(self, encoder: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, num_outputs) if num_outputs else nn.Identity()

    def forward(self, tokens: list[list[int]]) -> Tensor:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(t) for t in tokens], batch_first=True)
        lengths = torch.tensor([len(t) for t in tokens])[:, None]
        mask = (torch.arange(ids.shape[1]) < lengths).long()
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.head((hidden * mask[..., None]).sum(1) / lengths)


class Task(ABC):
    """Examples of one task, known by their numbers."""

    metric: str
    num_outputs: int

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.folder = str(packaged_file(*DEFAULT_MODEL))
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    @abstractmethod
    def split(self, seed: int) -> Parts:
        """Numbers of the training, validation and test examples."""

    @abstractmethod
    def loss(self, model: PooledEncoder, chosen: np.ndarray, seed: int) -> Tensor:
        """The training loss of some examples."""

    @abstractmethod
    def score(self, model: PooledEncoder, parts: Parts) -> dict[str, float]:
        """The metric on every part; the model is in evaluation mode, without gradients."""

    def model(self, seed: int) -> PooledEncoder:
        """The pretrained encoder, and a head that depends on the seed alone."""
        encoder = AutoModel.from_pretrained(self.folder, add_pooling_layer=False, dtype=torch.float32)
        torch.manual_seed(seed)
        return PooledEncoder(encoder, self.num_outputs)

    def batches(self, train: np.ndarray, seed: int) -> list[np.ndarray]:
        """The training examples of every step: shuffled epochs."""
        generator = np.random.default_rng([seed, 1])
        size, steps = self.settings.batch, self.settings.steps
        epochs = [generator.permutation(train) for _ in range(-(-steps * size // len(train)))]
        return list(np.concatenate(epochs)[: steps * size].reshape(steps, size))


class WordPairs(Task):
    """Human similarity of word pairs as the cosine of their embeddings; Spearman correlation."""

    metric, num_outputs = "Spearman correlation", 0

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        lines = packaged_file(*SIMLEX).read_text(encoding="utf8").splitlines()
        rows = [line.split("\t") for line in lines if line.strip() and line[0] != "#"]
        words = sorted({word for row in rows for word in row[:2]})
        number = {word: position for position, word in enumerate(words)}
        self.tokens = self.tokenizer(words)["input_ids"]
        self.pairs = np.array([[number[row[0]], number[row[1]]] for row in rows])
        self.targets = np.array([float(row[2]) / 10 for row in rows])

    def split(self, seed: int) -> Parts:
        return split_by_seed(len(self.pairs), self.settings, seed)

    def loss(self, model: PooledEncoder, chosen: np.ndarray, seed: int) -> Tensor:
        noise = np.random.default_rng([seed, 2]).normal(0, self.settings.noise, len(self.targets))
        targets = torch.tensor((self.targets + noise)[chosen], dtype=torch.float32)
        words = model([self.tokens[word] for word in self.pairs[chosen].T.ravel()])
        return F.mse_loss(F.cosine_similarity(*words.chunk(2)), targets)

    def score(self, model: PooledEncoder, parts: Parts) -> dict[str, float]:
        needed, place = np.unique(self.pairs[np.concatenate(list(parts.values()))], return_inverse=True)
        words = embed(model, [self.tokens[word] for word in needed])[torch.from_numpy(place.reshape(-1, 2))]
        similar = F.cosine_similarity(words[:, 0], words[:, 1]).numpy()
        scores, start = {}, 0
        for name, part in parts.items():
            scores[name] = float(stats.spearmanr(similar[start : start + len(part)], self.targets[part]).statistic)
            start += len(part)
        return scores


class Reviews(Task):
    """Two classes of short film reviews; accuracy."""

    metric, num_outputs = "accuracy", 2

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        sentences = load_sentences(FewShotArguments())
        tokens = self.tokenizer(sentences.texts)["input_ids"]
        short = np.array([number for number, t in enumerate(tokens) if len(t) <= settings.max_tokens])
        self.sentences = sentences.select(short)
        self.tokens = [tokens[number] for number in short]

    def split(self, seed: int) -> Parts:
        parts = split_by_seed(len(self.tokens), self.settings, seed)
        rest = np.setdiff1d(np.arange(len(self.tokens)), np.concatenate([parts["validation"], parts["test"]]))
        numbers = {text: number for number, text in enumerate(self.sentences.texts)}
        drawn = draw_balanced(self.sentences.select(rest), self.settings.samples, seed)
        return parts | {"train": np.array([numbers[text] for text in drawn.texts])}

    def loss(self, model: PooledEncoder, chosen: np.ndarray, seed: int) -> Tensor:
        return F.cross_entropy(model([self.tokens[i] for i in chosen]), torch.tensor(self.sentences.labels[chosen]))

    def score(self, model: PooledEncoder, parts: Parts) -> dict[str, float]:
        scores = {}
        for name, part in parts.items():
            predicted = embed(model, [self.tokens[i] for i in part]).argmax(1).numpy()
            scores[name] = float((predicted == self.sentences.labels[part]).mean())
        return scores


TASKS: dict[str, type[Task]] = {"simlex": WordPairs, "rotten_tomatoes": Reviews}


def split_by_seed(count: int, settings: TaskSettings, seed: int) -> Parts:
    """Validation from a fixed draw, training and test examples from the others by the seed."""
    order = np.random.default_rng(0).permutation(count)
    validation, others = np.split(order, [settings.validation])
    others = np.random.default_rng(seed).permutation(others)
    train, rest = np.split(others, [settings.samples])
    if len(rest) < settings.test:
        raise ValueError(
            f"{count} examples do not hold {settings.samples} to train on, {settings.validation} for validation and "
            f"{settings.test} for the test; lower one of them in the settings"
        )
    return {"train": train, "validation": validation, "test": rest[: settings.test]}


@torch.no_grad()
def embed(model: PooledEncoder, tokens: list[list[int]]) -> Tensor:
    """The model's outputs in the order of `tokens`; equal lengths run together, so nearly nothing is padded."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    outputs = torch.cat([model([tokens[i] for i in batch]) for batch in _filled(order, tokens)])
    return outputs[torch.tensor(order).argsort()]


def _filled(order: list[int], tokens: list[list[int]]) -> Iterator[list[int]]:
    """Batches of at most `EVALUATION_TOKENS`, padding included; the lengths rise along `order`."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(tokens[i]) > EVALUATION_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
