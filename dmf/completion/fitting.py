"""From observed entries and settings to a trained model: the steps of `MatrixCompletion.fit`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.utils import check_random_state

from dmf.completion.biases import fit_biases
from dmf.completion.checkpoint import checkpoint_seed, fingerprint, read_checkpoint, write_checkpoint
from dmf.completion.data import Split, split_entries
from dmf.completion.model import CompletionModel
from dmf.completion.settings import TrainingSettings, noise_level
from dmf.completion.training import Progress, make_optimizer, train
from dmf.compressed import CompressedDMF
from dmf.observed import ObservedEntries

Parameters = Mapping[str, Any]


class Fit(NamedTuple):
    """A trained model, the raw entries that it was trained on, and how the training went."""

    model: CompletionModel
    training: ObservedEntries
    progress: Progress


def fit_model(entries: ObservedEntries, parameters: Parameters, previous: CompletionModel | None) -> Fit:
    """Split, start or continue, train.

    Args:
        entries: raw values in float64, on the CPU.
        parameters: `MatrixCompletion.get_params()`, checked.
        previous: the model of an earlier fit to continue from (warm start); it is not changed.

    Returns:
        The model on the CPU.
    """
    path = parameters["checkpoint"]
    digest = fingerprint(parameters, entries, previous) if path else ""
    kept_seed = checkpoint_seed(path, digest) if path else None
    seed = int(check_random_state(parameters["random_state"]).randint(2**31 - 1)) if kept_seed is None else kept_seed
    split = split_entries(entries, parameters["validation_fraction"], seed)
    model = copy.deepcopy(previous) if previous else new_model(split.training, parameters, seed)
    model = model.to(parameters["device"])
    settings = training_settings(split.training, parameters, seed)
    optimizer = make_optimizer(model, settings)
    progress = Progress() if kept_seed is None else read_checkpoint(path, model, optimizer)

    def keep(progress: Progress) -> None:
        if path and progress.epoch % parameters["checkpoint_every"] == 0:
            write_checkpoint(path, digest, seed, model, optimizer, progress)

    train(model, standardize_split(split, model), settings, optimizer, progress, keep)
    if path:
        Path(path).unlink(missing_ok=True)
    return Fit(model.cpu(), split.training, progress)


def new_model(entries: ObservedEntries, parameters: Parameters, seed: int) -> CompletionModel:
    """Initialize the model: ridge biases, and a factorization in the subspace of the residual.

    Values are standardized by the standard deviation of the residual, so that no setting depends on their unit.
    """
    mean, row, column = fit_biases(entries, parameters["biases"], parameters["bias_decay"])
    row_bias, column_bias = torch.from_numpy(row), torch.from_numpy(column)
    residual = entries.values - mean - row_bias[entries.rows] - column_bias[entries.cols]
    scale = residual.square().mean().sqrt().item()
    has_signal = scale > 1e-12 * entries.values.abs().max().item()
    scale = scale if has_signal else 1.0
    dtype = getattr(torch, parameters["dtype"])
    options = {"depth": parameters["depth"], "init_scale": parameters["init_scale"]}
    if has_signal:
        standardized = _with_values(entries, residual / scale).to(dtype=dtype)
        factorization = CompressedDMF.from_entries(standardized, parameters["rank"], **options, seed=seed)
    else:  # nothing is left to factorize, and a zero gradient spans no subspace
        generator = torch.Generator().manual_seed(seed)
        factorization = CompressedDMF(*entries.shape, parameters["rank"], **options, dtype=dtype, generator=generator)
    return CompletionModel(
        factorization,
        row_bias / scale,
        column_bias / scale,
        biases=parameters["biases"],
        mean=mean,
        scale=scale,
        feedback=parameters["implicit_feedback"],
    )


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


def standardize_split(split: Split, model: CompletionModel) -> Split:
    """Convert the split to the model's units, dtype and device."""
    parameter = model.row_bias

    def standardize(entries: ObservedEntries) -> ObservedEntries:
        values = (entries.values - model.mean.cpu()) / model.scale.cpu()
        return _with_values(entries, values).to(device=parameter.device, dtype=parameter.dtype)

    return Split(standardize(split.training), None if split.validation is None else standardize(split.validation))


def _with_values(entries: ObservedEntries, values: torch.Tensor) -> ObservedEntries:
    return ObservedEntries(entries.rows, entries.cols, values, entries.shape)
