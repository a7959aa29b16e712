"""What the tasks of the few-shot study share: settings, the pooled encoder, splits by seed, evaluation.

Validation examples are the same for every seed and never in a test set. The seed alone draws training and test examples
from all others, and sets the order of batches, the initial head and the dropout: what differs between two methods on
one seed is the method.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

EVALUATION_TOKENS = 1024
Parts = dict[str, np.ndarray]


@dataclass(frozen=True)
class TaskSettings:
    """What runs share.

    Attributes:
        samples, validation, test: numbers of examples.
        min_tokens, max_tokens: shorter reviews and longer texts are left out.
        head_rate: of the linear head on top of the encoder, for every method; 0 freezes it at its random values.
        schedule: of all rates: "constant", or decay to 0, "linear" (Trainer's default) or "cosine".
        noise: in the training labels: the standard deviation of what is added to scores in [0, 1], or the share of
            classes that are replaced by the other one.
    """

    name: str
    samples: int
    steps: int
    batch: int
    validation: int
    test: int
    evaluate_every: int
    min_tokens: int = 0
    max_tokens: int = 16
    head_rate: float = 1e-3
    noise: float = 0.0
    schedule: str = "constant"

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "linear", "cosine"):
            raise ValueError(f"`schedule` must be 'constant', 'linear' or 'cosine', got {self.schedule!r}")


class PooledEncoder(nn.Module):
    """The mean of the last hidden states, through a linear head if there is one.

    With a `separator` the texts are pairs: what follows the first separator is marked as the second text.
    """

    def __init__(self, encoder: nn.Module, num_outputs: int, separator: int | None = None) -> None:
        super().__init__()
        self.encoder, self.separator = encoder, separator
        self.head = nn.Linear(encoder.config.hidden_size, num_outputs) if num_outputs else nn.Identity()

    def forward(self, tokens: list[list[int]]) -> Tensor:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(t) for t in tokens], batch_first=True)
        lengths = torch.tensor([len(t) for t in tokens])[:, None]
        mask = (torch.arange(ids.shape[1]) < lengths).long()
        more = {}
        if self.separator is not None:
            seen = (ids == self.separator).cumsum(1)
            more["token_type_ids"] = torch.where(ids == self.separator, seen - 1, seen).clamp(max=1)
        hidden = self.encoder(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        return self.head((hidden * mask[..., None]).sum(1) / lengths)


class Adaptable(Protocol):
    """A pretrained `encoder`, to be wrapped by an adapter, under a `head` (or the identity)."""

    encoder: Any
    head: nn.Module

    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...


class Task(ABC):
    """Examples of one task, known by their numbers; scores are better when they are higher.

    Attributes:
        metric: name of the score.
        adapted_layers, word_embedding: what adapters adapt, always and if they are asked to, as PEFT's
            `target_modules`.
        likelihood: whether the loss is a cross-entropy, of classes or of tokens; the step rule asks for it.
    """

    likelihood = False

    metric: str
    adapted_layers: str
    word_embedding: str

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings

    @abstractmethod
    def split(self, seed: int) -> Parts:
        """Draw the numbers of the training, validation and test examples."""

    @abstractmethod
    def loss(self, model: Any, chosen: np.ndarray, seed: int) -> Tensor:
        """Compute the training loss of some examples."""

    @abstractmethod
    def score(self, model: Any, parts: Parts) -> dict[str, float]:
        """Compute the metric on every part; the model is in evaluation mode, without gradients."""

    @abstractmethod
    def model(self, seed: int) -> Any:
        """Load the pretrained `encoder`, to be adapted, with a `head` that depends on the seed alone."""

    def with_batch_size(self, size: int) -> Task:
        """Take batches of another size, in so many steps that as many samples are seen."""
        resized = copy(self)
        steps = round(self.settings.steps * self.settings.batch / size)
        resized.settings = replace(self.settings, batch=size, steps=steps)
        return resized

    def texts_written(self, model: Any, seed: int) -> dict[str, float]:
        """Compute metrics of what the model writes, in the tasks whose models write."""
        return {}

    def batches(self, train: np.ndarray, seed: int) -> list[np.ndarray]:
        """Draw the training examples of every step: shuffled epochs."""
        generator = np.random.default_rng([seed, 1])
        size, steps = self.settings.batch, self.settings.steps
        epochs = [generator.permutation(train) for _ in range(-(-steps * size // len(train)))]
        return list(np.concatenate(epochs)[: steps * size].reshape(steps, size))


def split_by_seed(count: int, settings: TaskSettings, seed: int) -> Parts:
    """Draw validation examples once for all, and training and test examples from the others by the seed."""
    order = np.random.default_rng(0).permutation(count)
    validation, others = np.split(order, [settings.validation])
    others = np.random.default_rng(seed).permutation(others)
    train, rest = np.split(others, [settings.samples])
    if len(rest) < settings.test:
        raise ValueError(
            f"{count} examples are too few for {settings.samples} to train on, {settings.validation} for validation "
            f"and {settings.test} for the test; lower one of these numbers in the settings"
        )
    return {"train": train, "validation": validation, "test": rest[: settings.test]}


def draw(numbers: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    if len(numbers) < count:
        raise ValueError(f"{count} examples are needed, but only {len(numbers)} are short enough")
    return generator.permutation(numbers)[:count]


def data_folder(variable: str, name: str, files: tuple[str, ...]) -> Path:
    """Find the folder of a data set that no package has, named by an environment variable."""
    folder = Path(os.environ.get(variable, ""))
    missing = [file for file in files if not (folder / file).is_file()]
    if variable not in os.environ or missing:
        raise FileNotFoundError(
            f"{name} is missing: set the environment variable {variable} to a folder with the files "
            f"{', '.join(files)}; it is {os.environ.get(variable)!r} now"
        )
    return folder


@torch.no_grad()
def embed(model: PooledEncoder, tokens: list[list[int]]) -> Tensor:
    """Compute the model's outputs in the order of `tokens`; equal lengths run together, so there is little padding."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    outputs = torch.cat([model([tokens[i] for i in batch]) for batch in _filled(order, tokens)])
    return outputs[torch.tensor(order).argsort()]


def _filled(order: list[int], tokens: list[list[int]]) -> Iterator[list[int]]:
    """Make batches of at most `EVALUATION_TOKENS`, padding included; the lengths rise along `order`."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(tokens[i]) > EVALUATION_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
