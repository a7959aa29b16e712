"""The completed matrix in the unit of the data, separate from how it was trained."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from dmf.completion.data import counts
from dmf.completion.model import Seen, Trained
from dmf.observed import ObservedEntries
from dmf.sparse import entry_products


@dataclass(frozen=True)
class CompletedMatrix:
    """`mean + column_scale[j] row_bias[i] + column_bias[j] + <left[i], right[j]>`, all in float64."""

    mean: float
    row_bias: Float[ndarray, " out"]
    column_bias: Float[ndarray, " in"]
    left: Float[ndarray, "out r"]
    right: Float[ndarray, "in r"]
    column_scale: Float[ndarray, " in"]

    def entries(self, rows: Int[Tensor, "*n"], cols: Int[Tensor, "*n"]) -> Float[ndarray, "*n"]:
        """Return the entries (rows, cols), whose shapes are broadcast; of rows and columns beyond, nothing is known.

        Raises:
            ValueError: if the shapes do not broadcast.

        >>> ones = np.ones((2, 1))
        >>> matrix = CompletedMatrix(1.0, np.zeros(2), np.array([0.0, 5.0]), ones, ones, np.ones(2))
        >>> matrix.entries(torch.tensor(0), torch.tensor([0, 1])).tolist()
        [2.0, 7.0]
        >>> matrix.entries(torch.tensor(2), torch.tensor([0, 1])).tolist()
        [1.0, 6.0]
        """
        try:
            rows, cols = torch.broadcast_tensors(rows, cols)
        except RuntimeError as error:
            raise ValueError(
                f"rows of shape {tuple(rows.shape)} and cols of shape {tuple(cols.shape)} do not broadcast; pass one "
                "row and one column for each entry"
            ) from error
        n_out, n_in = len(self.row_bias), len(self.column_bias)
        known_row, known_col = (rows < n_out).numpy(), (cols < n_in).numpy()
        rows, cols = rows.clamp(max=n_out - 1), cols.clamp(max=n_in - 1)
        left, right = torch.from_numpy(self.left), torch.from_numpy(self.right)
        products = entry_products(left, right, rows.reshape(-1), cols.reshape(-1)).reshape(rows.shape).numpy()
        row, col = rows.numpy(), cols.numpy()
        scale = self.column_scale[col]
        if not known_col.all():
            scale = np.where(known_col, scale, unknown_scale(self.column_scale))
        row_bias, column_bias = known_row * self.row_bias[row], known_col * self.column_bias[col]
        return self.mean + scale * row_bias + column_bias + (known_row & known_col) * products

    def dense(self) -> Float[ndarray, "out in"]:
        """Return the whole matrix."""
        return self.mean + self.row_bias[:, None] * self.column_scale + self.column_bias + self.left @ self.right.T

    def some(self, rows: Int[ndarray, " m"], cols: Int[ndarray, " n"]) -> Float[ndarray, "m n"]:
        """Return the entries of these rows in these columns; of a row beyond, nothing is known.

        >>> ones = np.ones((2, 1))
        >>> matrix = CompletedMatrix(1.0, np.zeros(2), np.array([0.0, 5.0]), ones, ones, np.ones(2))
        >>> matrix.some(np.array([0, 2]), np.array([1])).tolist()
        [[7.0], [6.0]]
        """
        known = rows < len(self.row_bias)
        place = np.minimum(rows, len(self.row_bias) - 1)
        row_bias, left = known * self.row_bias[place], known[:, None] * self.left[place]
        biases = row_bias[:, None] * self.column_scale[cols] + self.column_bias[cols]
        return self.mean + biases + left @ self.right[cols].T


COMPLETED = tuple(f"{field.name}_" for field in fields(CompletedMatrix))  # the attributes of an estimator that hold it


def unknown_scale(column_scale: Float[ndarray, " in"]) -> float:
    """Return the scale of a column without entries: 1 if all have one unit, and 0 where its unit is not known.

    >>> unknown_scale(np.ones(3)), unknown_scale(np.array([1.0, 20.0]))
    (1.0, 0.0)
    """
    return float((column_scale == 1.0).all())


def completed_matrix(trained: Trained, training: ObservedEntries, shape: tuple[int, int]) -> CompletedMatrix:
    """Compute what a trained model predicts; rows and columns without training entries get zero factors and biases.

    Args:
        trained: on the CPU.
        training: the entries that the model was trained on; implicit feedback reads where they are.
        shape: of the matrix.
    """
    model = trained.model
    in_row, in_column = (count > 0 for count in counts(training))
    scale, offset, unit = model.scale.item(), model.column_offset.numpy(), model.column_unit.numpy()
    one_unit = model.has_one_unit
    weights = None if training.weights is None else training.weights.numpy()
    alone = one_unit or not model.has_biases[0]
    mean = model.mean.item() if alone else float(np.average(training.values.numpy(), weights=weights))
    with torch.no_grad():
        seen = Seen.of(training.to(dtype=model.row_bias.dtype))
        augmented = model.predicting_factors(model.explicit_factors(), seen)
        left, right = (factor[:, :-2].double().numpy() for factor in augmented)
        row_bias, column_bias = (bias.double().numpy() for bias in (model.row_bias, model.column_bias))
    column_bias = scale * column_bias if one_unit else offset + unit * (model.mean.item() + scale * column_bias) - mean

    def whole(part: ndarray, known: ndarray, numbers: Tensor, size: int, otherwise: float = 0.0) -> ndarray:
        spread = np.zeros((size, *part.shape[1:]))  # memory that is not touched costs nothing
        if otherwise:
            spread += otherwise
        spread[numbers.numpy()[known]] = part[known]
        return spread

    rows, columns = (in_row, trained.rows, shape[0]), (in_column, trained.cols, shape[1])
    return CompletedMatrix(
        mean=mean,
        row_bias=whole(scale * row_bias, *rows),
        column_bias=whole(column_bias, *columns),
        left=whole(scale * left, *rows),
        right=whole(unit[:, None] * right, *columns),
        column_scale=whole(unit, *columns, otherwise=float(one_unit)),
    )
