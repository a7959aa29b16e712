"""From observed entries and settings to a trained model: the steps of `MatrixCompletion.fit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.utils import check_random_state

from dmf.completion.data import Split, compact, split_entries
from dmf.completion.model import Trained
from dmf.completion.settings import TrainingSettings, noise_level
from dmf.completion.start import allowed_rank, continued_model, new_model
from dmf.completion.storage.checkpoint import checkpoint_seed, fingerprint, read_checkpoint, write_checkpoint
from dmf.completion.training import Progress, make_optimizer, train
from dmf.observed import ObservedEntries

Parameters = Mapping[str, Any]


class Fit(NamedTuple):
    """A trained model, what it was trained on, and how it went.

    Attributes:
        training: the raw entries, without empty rows and columns; their weights have the mean 1.
        weight_unit: what the weights were divided by for that.
        noise_level: see `noise_level`.
    """

    trained: Trained
    training: ObservedEntries
    progress: Progress
    weight_unit: float
    noise_level: float


def fit_model(entries: ObservedEntries, parameters: Parameters, previous: Trained | None) -> Fit:
    """Split, start or continue, train.

    Args:
        entries: raw values in float64, on the CPU.
        parameters: `MatrixCompletion.get_params()`, checked.
        previous: an earlier fit to continue from (warm start); it is not changed.

    Returns:
        The model on the CPU, of the rows and columns that have entries.
    """
    path = parameters["checkpoint"]
    digest = fingerprint(parameters, entries, previous) if path else ""
    kept_seed = checkpoint_seed(path, digest) if path else None
    seed = int(check_random_state(parameters["random_state"]).randint(2**31 - 1)) if kept_seed is None else kept_seed
    data = compact(entries)
    split, weight_unit = _evened(split_entries(data.entries, parameters["validation_fraction"], seed))
    model = new_model(split.training, parameters, allowed_rank(parameters["rank"], entries.shape), seed)
    model = continued_model(model, data._replace(entries=split.training), previous) if previous else model
    model = model.to(parameters["device"])
    settings = training_settings(split.training, parameters, seed)
    optimizer = make_optimizer(model, settings)
    progress = Progress() if kept_seed is None else read_checkpoint(path, model, optimizer)

    def keep(progress: Progress) -> None:
        if path and progress.epoch % parameters["checkpoint_every"] == 0:
            write_checkpoint(path, digest, seed, model, optimizer, progress)

    validation = None if split.validation is None else model.standardize(split.validation)
    standardized = Split(model.standardize(split.training), validation)
    train(model, standardized, settings, optimizer, progress, keep)
    if path:
        Path(path).unlink(missing_ok=True)
    level = noise_level(len(split.training), split.training.shape)
    return Fit(Trained(model.cpu(), data.rows, data.cols), split.training, progress, weight_unit, level)


def _evened(split: Split) -> tuple[Split, float]:
    """Divide the weights by the mean of those of training, so that only their ratios matter."""
    weights = split.training.weights
    if weights is None:
        return split, 1.0
    unit, validation = weights.mean().item(), split.validation
    if validation is not None and validation.weights is not None:
        validation = validation.with_weights(validation.weights / unit)
    return Split(split.training.with_weights(weights / unit), validation), unit


def training_settings(entries: ObservedEntries, parameters: Parameters, seed: int) -> TrainingSettings:
    """Collect the loop's settings; decays of factors are given in units of the noise level of the training entries."""
    unit = noise_level(len(entries), entries.shape)
    same = ("learning_rate", "gamma", "bias_decay", "batch_size", "max_epochs", "patience")
    return TrainingSettings(
        **{name: parameters[name] for name in same},
        weight_decay=unit * parameters["weight_decay"],
        feedback_decay=unit * parameters["feedback_decay"],
        seed=seed,
        progress_bar=bool(parameters["verbose"]),
    )
