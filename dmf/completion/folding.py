"""New entries without a new fit: ridge solutions for some rows and columns, while all others stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from dmf.completion.data import Compact, compact, selected
from dmf.completion.model import CompletionModel, Trained, factorization_of
from dmf.completion.prediction import CompletedMatrix, unknown_scale
from dmf.completion.units import ColumnUnits, column_units, has_one_unit, one_unit
from dmf.functional import identity_chain
from dmf.observed import ObservedEntries

GROUPS, TERMS = 2**12, 2**13  # rows that are solved at once, and entries whose outer products are in memory at once


class Solved(NamedTuple):
    """Factors and biases of rows, in standardized values."""

    factors: Float[Tensor, "m r"]
    biases: Float[Tensor, " m"]


@dataclass(frozen=True)
class Penalty:
    """Ridge penalties of a row's factors and of its bias; without biases there are none to solve for."""

    factors: float
    bias: float
    has_bias: bool


def solve_rows(
    entries: ObservedEntries,
    fixed: Float[Tensor, "in r"],
    offsets: Float[Tensor, " in"],
    penalty: Penalty,
    feedback: Float[Tensor, "out r"] | None = None,
) -> Solved:
    """Solve the ridge regression of each row on the fixed factors of the columns:

        minimize over p_i, b_i:   sum_j w_ij (u_ij - c_j - <p_i + f_i, r_j> - b_i)^2 + w |p_i|^2 + d b_i^2.

    These are the normal equations `(R^T W R + diag(w, ..., w, d)) [p_i, b_i] = R^T W (u_i - c - R f_i)` with a row
    `[r_j, 1]` of R for each observed j. Where nothing is penalized, it is the solution of least norm.

    Args:
        entries: u and w, in float64; a row without any gets zeros.
        fixed: r, the effective factors of the columns.
        offsets: c.
        penalty: w and d.
        feedback: f, what implicit feedback adds to p; it is not penalized.

    Source: the same step as in alternating least squares with a bias (Zhou et al., AAIM 2008), and as the fold-in of
    Sarwar et al., ICCIT 2002.

    >>> entries = ObservedEntries(*torch.tensor([[0, 0], [0, 1]]), torch.tensor([2.0, 4.0]).double(), (1, 2))
    >>> ones = torch.ones(2, 1, dtype=torch.float64)
    >>> solve_rows(entries, ones, torch.zeros(2), Penalty(1.0, 0.0, has_bias=False)).factors.round(decimals=9)
    tensor([[2.]], dtype=torch.float64)
    """
    rows, cols, (out, rank) = entries.rows, entries.cols, (entries.shape[0], fixed.shape[1])
    features = torch.cat([fixed, torch.ones_like(fixed[:, :1])], 1) if penalty.has_bias else fixed
    targets = entries.values - offsets[cols]
    if feedback is not None:
        targets = targets - (feedback[rows] * fixed[cols]).sum(1)
    weights = torch.ones_like(targets) if entries.weights is None else entries.weights
    decay = torch.full((features.shape[1],), penalty.factors, dtype=torch.float64)
    decay[rank:] = penalty.bias
    solution = torch.zeros(out, features.shape[1], dtype=torch.float64)
    pointers = entries.pattern.row_pointers.long()
    for first in range(0, out, GROUPS):
        last = min(first + GROUPS, out)
        gram = torch.diag(decay).repeat(last - first, 1, 1)
        moment = torch.zeros(last - first, features.shape[1], dtype=torch.float64)
        for start in range(int(pointers[first]), int(pointers[last]), TERMS):
            part = slice(start, min(start + TERMS, int(pointers[last])))
            chosen = features[cols[part]]
            weighted = weights[part, None] * chosen
            gram.index_add_(0, rows[part] - first, weighted[:, :, None] * chosen[:, None, :])
            moment.index_add_(0, rows[part] - first, weighted * targets[part, None])
        solution[first:last] = _solve(gram, moment, regular=bool((decay > 0).all()))
    biases = solution[:, rank] if penalty.has_bias else torch.zeros(out, dtype=torch.float64)
    return Solved(solution[:, :rank], biases)


def _solve(gram: Float[Tensor, "m k k"], moment: Float[Tensor, "m k"], *, regular: bool) -> Float[Tensor, "m k"]:
    if regular:
        return torch.cholesky_solve(moment[:, :, None], torch.linalg.cholesky(gram))[:, :, 0]
    return (torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ moment[:, :, None])[:, :, 0]


def transposed(entries: ObservedEntries) -> ObservedEntries:
    """Return the entries of the transposed matrix.

    >>> transposed(ObservedEntries.from_dense(torch.tensor([[1.0, 2.0]]))).shape
    (2, 1)
    """
    return ObservedEntries(entries.cols, entries.rows, entries.values, entries.shape[::-1], entries.weights)


def feedback_of(entries: ObservedEntries, vectors: Float[Tensor, "in r"]) -> Float[Tensor, "out r"]:
    """Return for each row the sum of the vectors of its observed columns over the square root of their number."""
    counts = entries.pattern.row_pointers.diff().clamp(min=1)
    total = torch.zeros(entries.shape[0], vectors.shape[1], dtype=vectors.dtype)
    for part in torch.arange(len(entries)).split(TERMS * 8):
        total.index_add_(0, entries.rows[part], vectors[entries.cols[part]])
    return total / counts.to(vectors.dtype).sqrt()[:, None]


class Folded(NamedTuple):
    """What is known after new entries: the completed matrix, and the model that a warm start continues from."""

    completed: CompletedMatrix
    trained: Trained


def fold(
    completed: CompletedMatrix,
    trained: Trained,
    entries: ObservedEntries,
    rows: Int[Tensor, " m"],
    cols: Int[Tensor, " n"],
    penalty: Penalty,
    biases: bool | str,
) -> Folded:
    """Solve for new columns, then for the given rows, then for the given columns, each with `solve_rows`.

    Every step minimizes the training objective over what it solves for, so it never rises.

    Args:
        completed, trained: of the fit; they are not changed.
        entries: all that are known, raw, in the shape that the matrix has now; weights have about the mean 1.
        rows, cols: sorted numbers of those that are solved for; all others stay as they are, to the bit.
        penalty: w, d, and whether rows have a bias.
        biases: as in `MatrixCompletion`.
    """
    state = _State.of(completed, trained, entries)
    of_rows, of_columns = penalty, replace(penalty, has_bias=trained.model.has_biases[2])
    new_cols, known = cols[~torch.isin(cols, trained.cols)], torch.isin(entries.rows, trained.rows)
    if len(new_cols) and bool(known.any()):
        state.solve_columns(known & torch.isin(entries.cols, new_cols), of_columns)
    state.solve_rows(torch.isin(entries.rows, rows), of_rows)
    state.solve_columns(torch.isin(entries.cols, cols), of_columns)
    model = state.model(trained.model, biases)
    return Folded(state.spread(completed, entries.shape, rows, cols), Trained(model, state.rows, state.cols))


@dataclass
class _Side:
    """Rows, or columns: effective factors, explicit ones, biases, and the vectors of implicit feedback."""

    effective: Float[Tensor, "n r"]
    explicit: Float[Tensor, "n r"]
    bias: Float[Tensor, " n"]
    feedback: Float[Tensor, "n r"] | None

    @classmethod
    def grown(
        cls,
        known: Int[Tensor, " k"],
        wanted: Int[Tensor, " n"],
        effective: Tensor,
        explicit: Tensor,
        bias: Tensor,
        feedback: Tensor | None,
    ) -> _Side:
        """Place what is known of some numbers among those that are wanted; the others get zeros."""
        place = torch.searchsorted(wanted, known)

        def placed(part: Tensor) -> Tensor:
            whole = torch.zeros(len(wanted), *part.shape[1:], dtype=torch.float64)
            whole[place] = part.detach().double()
            return whole

        return cls(placed(effective), placed(explicit), placed(bias), None if feedback is None else placed(feedback))

    def solve(self, entries: ObservedEntries, other: _Side, penalty: Penalty) -> None:
        """Solve for the rows of this side that have entries; those without keep what they have."""
        numbers, local = entries.rows.unique(return_inverse=True)
        own = ObservedEntries(local, entries.cols, entries.values, (len(numbers), entries.shape[1]), entries.weights)
        feedback = None if other.feedback is None else feedback_of(own, other.feedback)
        factors, bias = solve_rows(own, other.effective, other.bias, penalty, feedback)
        self.explicit[numbers] = factors
        self.effective[numbers] = factors if feedback is None else factors + feedback
        self.bias[numbers] = bias


@dataclass
class _State:
    """Both sides in standardized values, and all entries, in the numbers of those rows and columns that have any."""

    data: ObservedEntries
    rows: Int[Tensor, " out"]
    cols: Int[Tensor, " in"]
    of_rows: _Side
    of_cols: _Side
    units: ColumnUnits
    mean: float
    scale: float

    @classmethod
    def of(cls, completed: CompletedMatrix, trained: Trained, entries: ObservedEntries) -> _State:
        model, data = trained.model, compact(entries)
        left, right = model.explicit_factors()
        known_rows, known_cols = trained.rows.numpy(), trained.cols.numpy()
        mean, scale, unit = model.mean.item(), model.scale.item(), model.column_unit.numpy()[:, None]
        effective = torch.from_numpy(completed.left[known_rows] / scale)
        of_rows = _Side.grown(
            trained.rows, data.rows, effective=effective, explicit=left, bias=model.row_bias,
            feedback=model.column_feedback,
        )  # fmt: skip
        right_in_data = completed.right[known_cols]
        effective = torch.from_numpy(np.divide(right_in_data, unit, out=np.zeros_like(right_in_data), where=unit > 0))
        of_cols = _Side.grown(
            trained.cols, data.cols, effective=effective, explicit=right, bias=model.column_bias,
            feedback=model.row_feedback,
        )  # fmt: skip
        units = grown_units(model, trained.cols, data)
        standardized = data.entries.with_values((units.without(data.entries).values - mean) / scale)
        return cls(standardized, data.rows, data.cols, of_rows, of_cols, units, mean, scale)

    def solve_rows(self, chosen: Bool[Tensor, " nnz"], penalty: Penalty) -> None:
        if bool(chosen.any()):
            self.of_rows.solve(selected(self.data, chosen), self.of_cols, penalty)

    def solve_columns(self, chosen: Bool[Tensor, " nnz"], penalty: Penalty) -> None:
        if bool(chosen.any()):
            self.of_cols.solve(transposed(selected(self.data, chosen)), self.of_rows, penalty)

    def model(self, old: CompletionModel, biases: bool | str) -> CompletionModel:
        """Make the model with these factors: its cores are the identity, since they are in the factors."""
        core, dtype = old.factorization.core, old.row_bias.dtype
        chain = identity_chain(len(core), core.shape[1], 1.0, dtype=dtype)
        left, right = self.of_rows.explicit.to(dtype), self.of_cols.explicit.to(dtype)
        made = CompletionModel(
            factorization_of(left, chain, right), self.of_rows.bias, self.of_cols.bias, biases=biases, mean=self.mean,
            scale=self.scale, feedback=self.of_rows.feedback is not None, units=self.units,
        )  # fmt: skip
        if self.of_rows.feedback is not None and self.of_cols.feedback is not None:
            made.column_feedback = torch.nn.Parameter(self.of_rows.feedback.to(dtype))
            made.row_feedback = torch.nn.Parameter(self.of_cols.feedback.to(dtype))
        return made

    def spread(
        self, old: CompletedMatrix, shape: tuple[int, int], rows: Int[Tensor, " m"], cols: Int[Tensor, " n"]
    ) -> CompletedMatrix:
        """Return the completed matrix: the old one, but for these rows and columns."""
        row, col = torch.searchsorted(self.rows, rows), torch.searchsorted(self.cols, cols)
        offset, unit = (each[col.numpy()] for each in self.units)
        column_bias = self.scale * self.of_cols.bias[col].numpy()
        if not has_one_unit(self.units):
            column_bias = offset + unit * (self.mean + column_bias) - old.mean
        scales = np.full(shape[1], unknown_scale(old.column_scale))
        scales[: len(old.column_scale)] = old.column_scale
        scales[cols.numpy()] = unit

        def whole(part: ndarray, numbers: Tensor, new: ndarray, size: int) -> ndarray:
            spread, known = np.zeros((size, *part.shape[1:])), part.reshape(len(part), -1).any(1)
            spread[: len(part)][known] = part[known]  # memory that is not touched costs nothing
            spread[numbers.numpy()] = new
            return spread

        return CompletedMatrix(
            mean=old.mean,
            row_bias=whole(old.row_bias, rows, self.scale * self.of_rows.bias[row].numpy(), shape[0]),
            column_bias=whole(old.column_bias, cols, column_bias, shape[1]),
            left=whole(old.left, rows, self.scale * self.of_rows.effective[row].numpy(), shape[0]),
            right=whole(old.right, cols, unit[:, None] * self.of_cols.effective[col].numpy(), shape[1]),
            column_scale=scales,
        )


def grown_units(model: CompletionModel, known: Int[Tensor, " k"], data: Compact) -> ColumnUnits:
    """Return the units of all columns: those of the model, and of a new column its own, if columns have units."""
    if model.has_one_unit:
        return one_unit(len(data.cols))
    found = column_units(data.entries, model.has_biases[2], True)
    place = torch.searchsorted(data.cols, known).numpy()
    found.offset[place], found.unit[place] = model.column_offset.numpy(), model.column_unit.numpy()
    return found
