"""Where the training of `MatrixCompletion` starts: in the subspace of the data, or at the model of an earlier fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dmf.completion.biases import fit_biases
from dmf.completion.data import Compact
from dmf.completion.model import CompletionModel, Seen, Trained, factorization_of
from dmf.completion.units import NOTHING, column_units
from dmf.compressed import CompressedDMF
from dmf.functional import identity_chain
from dmf.losses import observed_loss
from dmf.observed import ObservedEntries
from dmf.subspaces import largest_rank

OF_ROWS = ("factorization.left", "row_bias", "column_feedback")
OF_COLUMNS = ("factorization.right", "column_bias", "row_feedback")
WORSE = 1.01  # in squared error; that of a fit of something else is above, and that of a fit of the same data below
SMALL = 1e-3  # start of the factors of a row that an earlier fit did not have; zero would be a saddle point


def allowed_rank(rank: int, shape: tuple[int, int]) -> int:
    """Return the rank, or the largest one of a matrix of this shape if that is less.

    >>> allowed_rank(20, (5, 4)), allowed_rank(4, (5, 4)), allowed_rank(20, (1, 1))
    (4, 4, 2)
    """
    return max(2, min(rank, largest_rank(shape)))


def new_model(entries: ObservedEntries, parameters: Mapping[str, Any], rank: int, seed: int) -> CompletionModel:
    """Initialize the model: ridge biases, and a factorization in the subspace of the residual.

    Values are standardized by the standard deviation of the residual, so that no setting depends on their unit. If
    the biases leave nothing, the deviation is that of rounding, and the factors start at zero.
    """
    units = column_units(entries, parameters["biases"], parameters["column_scales"])
    values = units.without(entries)
    mean, row, column = fit_biases(values, parameters["biases"], parameters["bias_decay"])
    row_bias, column_bias = torch.from_numpy(row), torch.from_numpy(column)
    residual = values.values - mean - row_bias[entries.rows] - column_bias[entries.cols]
    weights = torch.ones_like(residual) if entries.weights is None else entries.weights
    scale = (weights * residual.square()).mean().sqrt().item()
    rounding = NOTHING * values.values.abs().max().item()
    has_signal, scale = scale > rounding, max(scale, rounding) or 1.0
    gradient = values.with_values(weights * residual / scale).to(dtype=getattr(torch, parameters["dtype"]))
    options = {"depth": parameters["depth"], "init_scale": parameters["init_scale"]}
    return CompletionModel(
        _factorization(gradient, rank, has_signal=has_signal, seed=seed, **options),
        row_bias / scale,
        column_bias / scale,
        biases=parameters["biases"],
        mean=mean,
        scale=scale,
        feedback=parameters["implicit_feedback"],
        units=units,
    )


def _factorization(
    entries: ObservedEntries, rank: int, *, depth: int, init_scale: float, has_signal: bool, seed: int
) -> CompressedDMF:
    """Start in the subspace of the entries; columns of the factors that so small a matrix cannot fill stay zero."""
    (out, in_), dtype = entries.shape, entries.values.dtype
    width = min(rank, largest_rank(entries.shape))
    left, right = torch.zeros(out, rank, dtype=dtype), torch.zeros(in_, rank, dtype=dtype)
    if not has_signal:
        right = torch.eye(in_, rank, dtype=dtype)
    elif width == 0:  # a single entry, whose subspace is everything
        right = torch.eye(1, rank, dtype=dtype)
        left = entries.values.sign() * right
    else:
        found = CompressedDMF.from_entries(entries, width, depth=depth, init_scale=init_scale, seed=seed)
        left[:, :width], right[:, :width] = found.left.detach(), found.right.detach()
    return factorization_of(left, identity_chain(depth, rank, init_scale, dtype=dtype), right)


def continued_model(fresh: CompletionModel, data: Compact, previous: Trained) -> CompletionModel:
    """Take over what an earlier fit learned in standardized values; mean, scale and units are those of the new data.

    So it does not matter in which unit either is. Rows and columns that the earlier fit did not have start with small
    factors and with their ridge biases. An earlier fit that predicts the new data worse than the new start does, since
    it is of something else, is not a start.

    Args:
        fresh: started from the new data; it is not changed.
        data: the new data.
        previous: the earlier fit, of the same rank and depth.
    """
    old, new = previous.model.state_dict(), {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    new["factorization.left"] *= SMALL
    new["factorization.right"] *= SMALL
    for names, known, wanted in ((OF_ROWS, previous.rows, data.rows), (OF_COLUMNS, previous.cols, data.cols)):
        found, place = _places(known, wanted)
        for name in names:
            if name in new:
                new[name][found] = old[name][place]
    new["factorization.core"] = old["factorization.core"]
    continued = copy.deepcopy(fresh)
    continued.load_state_dict(new)
    return fresh if _loss(continued, data.entries) > WORSE * _loss(fresh, data.entries) else continued


def _loss(model: CompletionModel, entries: ObservedEntries) -> float:
    standardized = model.standardize(entries)
    with torch.no_grad():
        factors = model.predicting_factors(model.explicit_factors(), Seen.of(standardized))
        return observed_loss(*factors, standardized).item()


def _places(known: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the wanted numbers are known, and where each of these is among the known."""
    place = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    found = known[place] == wanted
    return found, place[found]
