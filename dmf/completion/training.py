"""The training loop of `MatrixCompletion`: Adam with cosine decay, early stopping, and resumable progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Adam, Optimizer
from tqdm.auto import tqdm

from dmf.completion.data import Split
from dmf.completion.model import CompletionModel, Factors, Seen
from dmf.completion.settings import TrainingSettings
from dmf.losses import observed_loss
from dmf.observed import ObservedEntries
from dmf.optimizer import parameter_groups
from dmf.sparse import entry_products

State = dict[str, Tensor]


class Batch(NamedTuple):
    """Some of the entries, and their weights."""

    rows: Int[Tensor, " n"]
    cols: Int[Tensor, " n"]
    values: Float[Tensor, " n"]
    weights: Float[Tensor, " n"]


@dataclass
class Progress:
    """Everything that decides how a training continues, apart from model and optimizer.

    Attributes:
        epoch: number of finished epochs.
        history: for each of them "epoch", "training_rmse" (before its steps) and, with validation, "validation_rmse".
        best_epoch, best_rmse, best_state: of the lowest validation error; unused without validation.
    """

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_rmse: float = math.inf
    best_state: State = field(default_factory=dict)


def make_optimizer(model: CompletionModel, settings: TrainingSettings) -> Optimizer:
    """Make Adam with the groups of `dmf.parameter_groups`; gradients here are small, and so is its eps."""
    groups = parameter_groups(model, settings.learning_rate, settings.gamma)
    return Adam([{**group, "initial_lr": group["lr"]} for group in groups], eps=1e-12)


def train(
    model: CompletionModel,
    split: Split,
    settings: TrainingSettings,
    optimizer: Optimizer,
    progress: Progress,
    after_epoch: Callable[[Progress], None],
) -> None:
    """Continue training from `progress`; with validation the model ends in its best state.

    Args:
        split: standardized entries, on the device and in the dtype of the model.
        after_epoch: called after each epoch, for instance to write a checkpoint.

    Raises:
        FloatingPointError: if the loss or the factors stop being finite.
    """
    seen = Seen.of(split.training)
    with tqdm(
        total=settings.max_epochs, initial=progress.epoch, disable=not settings.progress_bar, unit="epoch"
    ) as bar:
        while progress.epoch < settings.max_epochs and not _has_stopped(progress, split, settings):
            _set_rates(optimizer, progress.epoch / settings.max_epochs)
            rmse = _epoch(model, split.training, seen, settings, optimizer, progress.epoch)
            record = {"epoch": progress.epoch + 1, "training_rmse": rmse}
            progress.epoch += 1
            if split.validation is not None:
                record["validation_rmse"] = _validation_rmse(model, split.validation, seen)
                _keep_best(progress, model, record["validation_rmse"])
            progress.history.append(record)
            bar.update()
            bar.set_postfix({name: f"{value:.4g}" for name, value in record.items() if name != "epoch"})
            after_epoch(progress)
    with torch.no_grad():
        for factor in model.predicting_factors(model.explicit_factors(), seen):
            _check_finite(factor, progress.epoch - 1, settings)
    if split.validation is not None:
        model.load_state_dict(progress.best_state)


def _has_stopped(progress: Progress, split: Split, settings: TrainingSettings) -> bool:
    return split.validation is not None and progress.epoch - progress.best_epoch >= settings.patience


def _check_finite(tensor: Tensor, epoch: int, settings: TrainingSettings) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise FloatingPointError(
            f"training diverged in epoch {epoch + 1}: the loss or the factors are no longer finite; lower "
            f"learning_rate (it is {settings.learning_rate:g})"
        )


def _set_rates(optimizer: Optimizer, fraction: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * 0.5 * (1 + math.cos(math.pi * fraction))


def _epoch(
    model: CompletionModel,
    entries: ObservedEntries,
    seen: Seen,
    settings: TrainingSettings,
    optimizer: Optimizer,
    epoch: int,
) -> float:
    """Pass once over the training entries; return the RMSE before each step, in the unit of the data."""
    squares = 0.0
    for batch in _batches(entries, settings, epoch):
        explicit = model.explicit_factors()
        factors = model.predicting_factors(explicit, seen)
        data_term = observed_loss(*factors, entries) if batch is None else _batch_loss(factors, batch)
        penalty = model.penalty(explicit, settings.weight_decay, settings.bias_decay, settings.feedback_decay)
        loss = data_term + penalty / len(entries)
        _check_finite(loss, epoch, settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        squares += 2 * data_term.item() * (len(entries) if batch is None else len(batch.values))
    return float(model.scale) * math.sqrt(squares / len(entries))


def _batches(entries: ObservedEntries, settings: TrainingSettings, epoch: int) -> list[Batch | None]:
    """Split the entries into steps, in an order that seed and epoch decide; None stands for all of them at once."""
    if settings.batch_size is None or settings.batch_size >= len(entries):
        return [None]
    order = np.random.default_rng([settings.seed, 1, epoch]).permutation(len(entries))
    shuffled = torch.from_numpy(order).to(entries.values.device)
    weights = torch.ones_like(entries.values) if entries.weights is None else entries.weights
    of_all = (entries.rows, entries.cols, entries.values, weights)
    parts = (each[shuffled].split(settings.batch_size) for each in of_all)
    return [Batch(*part) for part in zip(*parts, strict=True)]


def _batch_loss(factors: Factors, batch: Batch) -> Tensor:
    squares = (entry_products(*factors, batch.rows, batch.cols) - batch.values).square()
    return 0.5 * (batch.weights * squares).mean()


def _validation_rmse(model: CompletionModel, validation: ObservedEntries, seen: Seen) -> float:
    with torch.no_grad():
        factors = model.predicting_factors(model.explicit_factors(), seen)
        return float(model.scale) * math.sqrt(2 * observed_loss(*factors, validation).item())


def _keep_best(progress: Progress, model: CompletionModel, rmse: float) -> None:
    if rmse < progress.best_rmse:
        progress.best_epoch, progress.best_rmse = progress.epoch, rmse
        progress.best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
