"""Global mean, row and column biases of observed entries: a ridge regression with a closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import csr_matrix, hstack
from scipy.sparse.linalg import lsqr

from dmf.observed import ObservedEntries

BIASES = ("none", "global", "rows", "columns", "both")


class Biases(NamedTuple):
    """`mean + row[i] + column[j]` for entry (i, j); what is not used is zero."""

    mean: float
    row: Float[ndarray, " out"]
    column: Float[ndarray, " in"]


def has_mean(biases: bool | str) -> bool:
    """Say whether there is a global mean: always, except for False and "none"."""
    return biases not in (False, "none")


def has_rows(biases: bool | str) -> bool:
    """Say whether rows have biases: for True, "both" and "rows"."""
    return biases in (True, "both", "rows")


def has_columns(biases: bool | str) -> bool:
    """Say whether columns have biases: for True, "both" and "columns"."""
    return biases in (True, "both", "columns")


def fit_biases(entries: ObservedEntries, biases: bool | str, decay: float) -> Biases:
    """Minimize `sum_observed w_ij (x_ij - mean - b_i - c_j)^2 + decay (|b|^2 + |c|^2)` with the observed mean.

    The decay counts observations: a row with n entries keeps about n / (n + decay) of its own mean, and a row without
    any has bias 0.

    Args:
        entries: observed values x_ij, in float64 on the CPU, with weights w_ij of mean 1 or without.
        biases: True, False or one of `BIASES`.
        decay: nonnegative; 0 takes the solution of least norm.

    Source: Koren, Bell and Volinsky, IEEE Computer 2009 (baseline predictors), with a ridge solved exactly.

    >>> import torch
    >>> entries = ObservedEntries.from_dense(torch.tensor([[1.0, 3.0], [5.0, 7.0]], dtype=torch.float64))
    >>> mean, row, column = fit_biases(entries, "both", decay=0.0)
    >>> mean, row.round(6).tolist(), column.round(6).tolist()
    (4.0, [-2.0, 2.0], [-1.0, 1.0])
    """
    n_out, n_in = entries.shape
    row, column = np.zeros(n_out), np.zeros(n_in)
    if not has_mean(biases):
        return Biases(0.0, row, column)
    values = entries.values.numpy()
    weights = np.ones(len(values)) if entries.weights is None else entries.weights.numpy()
    mean = float(np.average(values, weights=weights))
    root, blocks = np.sqrt(weights), []
    if has_rows(biases):
        blocks.append(_indicators(entries.rows.numpy(), n_out, root))
    if has_columns(biases):
        blocks.append(_indicators(entries.cols.numpy(), n_in, root))
    if blocks:
        target = root * (values - mean)
        unit = np.ldexp(1.0, np.frexp(np.abs(target).max())[1])  # lsqr adds its eps to numbers that may be as small
        system = hstack(blocks, format="csr")
        solution = unit * lsqr(system, target / unit, damp=decay**0.5, atol=1e-12, btol=1e-12)[0]
        if has_rows(biases):
            row, solution = solution[:n_out], solution[n_out:]
        if has_columns(biases):
            column = solution
    return Biases(mean, row, column)


def _indicators(index: ndarray, size: int, values: ndarray) -> csr_matrix:
    return csr_matrix((values, index, np.arange(len(index) + 1)), shape=(len(index), size))
