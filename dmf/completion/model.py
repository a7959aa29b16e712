"""The model behind `MatrixCompletion`: biases, a compressed deep factorization, and implicit feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dmf.completion.biases import has_columns, has_mean, has_rows
from dmf.completion.units import ColumnUnits, has_one_unit, one_unit
from dmf.compressed import CompressedDMF
from dmf.observed import ObservedEntries
from dmf.sparse import SparsityPattern, sparse_product


class Factors(NamedTuple):
    """`left right^T`, shapes (out, r) and (in, r)."""

    left: Float[Tensor, "out r"]
    right: Float[Tensor, "in r"]


@dataclass(frozen=True)
class Seen:
    """Which entries were observed, as two normalized sparse matrices: N_ij = 1 / sqrt(n_i) and M_ij = 1 / sqrt(m_j).

    n_i and m_j are the numbers of observed entries in row i and in column j.
    """

    pattern: SparsityPattern
    by_row: Float[Tensor, " nnz"]
    by_column: Float[Tensor, " nnz"]

    @classmethod
    def of(cls, entries: ObservedEntries) -> Seen:
        """Normalize the pattern of these entries."""
        pattern = entries.pattern
        in_row, in_column = pattern.row_pointers.diff(), pattern.column_pointers.diff()
        return cls(
            pattern,
            in_row.to(entries.values.dtype).rsqrt()[entries.rows],
            in_column.to(entries.values.dtype).rsqrt()[entries.cols],
        )


class CompletionModel(nn.Module):
    """Standardized entries `b_i + c_j + <l_i, r_j>` with

        l = left core[L-1] ... core[0] + N Y,    r = right + M^T Z;

    Y and Z exist with implicit feedback only; N and M say which entries were observed (`Seen`).

    Args:
        factorization: left, core and right.
        row_bias, column_bias: b and c at the start.
        biases: which of them are trained, as in `MatrixCompletion`.
        mean, scale: the data are `mean + scale * standardized`, in the units of the columns.
        units: those units, if each column has its own.
        feedback: whether Y (in, r) and Z (out, r) exist; they start at zero.

    Source: the factorization is the compressed one of Yaras et al., ICML 2024; the feedback is that of SVD++ (Koren,
    KDD 2008), on both sides.
    """

    mean: Tensor
    scale: Tensor
    column_offset: Tensor
    column_unit: Tensor

    def __init__(
        self,
        factorization: CompressedDMF,
        row_bias: Float[Tensor, " out"],
        column_bias: Float[Tensor, " in"],
        *,
        biases: bool | str,
        mean: float,
        scale: float,
        feedback: bool,
        units: ColumnUnits | None = None,
    ) -> None:
        super().__init__()
        self.factorization = factorization
        self.row_bias = nn.Parameter(row_bias.to(factorization.left), requires_grad=has_rows(biases))
        self.column_bias = nn.Parameter(column_bias.to(factorization.left), requires_grad=has_columns(biases))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        units = one_unit(factorization.n_in) if units is None else units
        self.register_buffer("column_offset", torch.from_numpy(units.offset))
        self.register_buffer("column_unit", torch.from_numpy(units.unit))
        self.has_biases = (has_mean(biases), has_rows(biases), has_columns(biases))
        self.row_feedback: nn.Parameter | None = None
        self.column_feedback: nn.Parameter | None = None
        if feedback:
            self.row_feedback = nn.Parameter(torch.zeros_like(factorization.right))
            self.column_feedback = nn.Parameter(torch.zeros_like(factorization.left))

    @property
    def has_one_unit(self) -> bool:
        """Say whether all columns are in one unit."""
        return has_one_unit(ColumnUnits(self.column_offset.numpy(), self.column_unit.numpy()))

    def standardize(self, entries: ObservedEntries) -> ObservedEntries:
        """Convert observed values, in float64 on the CPU, to this model's units, dtype and device."""
        units = ColumnUnits(self.column_offset.cpu().numpy(), self.column_unit.cpu().numpy())
        values = (units.without(entries).values - self.mean.cpu()) / self.scale.cpu()
        return entries.with_values(values).to(device=self.row_bias.device, dtype=self.row_bias.dtype)

    def explicit_factors(self) -> Factors:
        """Return the factors without the feedback."""
        return Factors(*self.factorization.two_factors())

    def predicting_factors(self, explicit: Factors, seen: Seen) -> Factors:
        """Write the whole model as one product of r + 2 columns, `[l, b, 1] [r, 1, c]^T`."""
        left, right = explicit
        if self.row_feedback is not None and self.column_feedback is not None:
            left = left + sparse_product(seen.by_row, self.row_feedback, seen.pattern)
            right = right + sparse_product(seen.by_column, self.column_feedback, seen.pattern, transposed=True)
        b, c = self.row_bias[:, None], self.column_bias[:, None]
        return Factors(torch.cat([left, b, torch.ones_like(b)], 1), torch.cat([right, torch.ones_like(c), c], 1))

    def penalty(
        self, explicit: Factors, weight_decay: float, bias_decay: float, feedback_decay: float
    ) -> Float[Tensor, ""]:
        """Return `w/2 (|l|^2 + |r|^2) + b/2 (|b|^2 + |c|^2) + f/2 (|Y|^2 + |Z|^2)`, squared Frobenius norms.

        Decay acts on the end-to-end factors l and r, not on each core: its minimum over all l r^T = W is the nuclear
        norm, `w |W|_*`, a convex penalty of W. Decay on every factor of a chain of length n would penalize the singular
        values to the power 2/n, which for n = 5 hardly shrinks a few of them and loses the others.

        Source: Srebro, Rennie and Jaakkola, NeurIPS 2004, lemma 1, for the nuclear norm.
        """
        total = weight_decay * _squares(*explicit) + bias_decay * _squares(self.row_bias, self.column_bias)
        if self.row_feedback is not None and self.column_feedback is not None:
            total = total + feedback_decay * _squares(self.row_feedback, self.column_feedback)
        return 0.5 * total


class Trained(NamedTuple):
    """A model of those rows and columns of a matrix that have observations, and their numbers in the matrix, sorted."""

    model: CompletionModel
    rows: Int[Tensor, " out"]
    cols: Int[Tensor, " in"]


def factorization_of(
    left: Float[Tensor, "out r"], core: Float[Tensor, "depth r r"], right: Float[Tensor, "in r"]
) -> CompressedDMF:
    """Make the factorization with these factors; r may be more than the matrix needs."""
    options: dict[str, Any] = {"depth": len(core), "dtype": left.dtype, "generator": torch.Generator()}
    factorization = CompressedDMF(len(left), len(right), 1, **options)
    factorization.left, factorization.core, factorization.right = map(nn.Parameter, (left, core, right))
    return factorization


def _squares(first: Tensor, second: Tensor) -> Float[Tensor, ""]:
    return first.square().sum() + second.square().sum()
