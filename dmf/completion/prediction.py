"""The completed matrix in the unit of the data, separate from how it was trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from dmf.completion.data import counts
from dmf.completion.model import CompletionModel, Seen
from dmf.observed import ObservedEntries, check_indices
from dmf.sparse import entry_products


@dataclass(frozen=True)
class CompletedMatrix:
    """`mean + row_bias[i] + column_bias[j] + <left[i], right[j]>`, all in float64."""

    mean: float
    row_bias: Float[ndarray, " out"]
    column_bias: Float[ndarray, " in"]
    left: Float[ndarray, "out r"]
    right: Float[ndarray, "in r"]

    def entries(self, rows: Int[Tensor, "*n"], cols: Int[Tensor, "*n"]) -> Float[ndarray, "*n"]:
        """Return the entries (rows, cols), whose shapes are broadcast.

        Raises:
            ValueError: if the shapes do not broadcast, or an index is out of range.

        >>> matrix = CompletedMatrix(1.0, np.zeros(2), np.array([0.0, 5.0]), np.ones((2, 1)), np.ones((2, 1)))
        >>> matrix.entries(torch.tensor(0), torch.tensor([0, 1])).tolist()
        [2.0, 7.0]
        """
        try:
            rows, cols = torch.broadcast_tensors(rows, cols)
        except RuntimeError as error:
            raise ValueError(
                f"rows of shape {tuple(rows.shape)} and cols of shape {tuple(cols.shape)} do not broadcast; pass one "
                "row and one column for each entry"
            ) from error
        check_indices(rows, cols, (len(self.row_bias), len(self.column_bias)))
        left, right = torch.from_numpy(self.left), torch.from_numpy(self.right)
        products = entry_products(left, right, rows.reshape(-1), cols.reshape(-1)).reshape(rows.shape).numpy()
        return self.mean + self.row_bias[rows.numpy()] + self.column_bias[cols.numpy()] + products

    def dense(self) -> Float[ndarray, "out in"]:
        """Return the whole matrix."""
        return self.mean + self.row_bias[:, None] + self.column_bias + self.left @ self.right.T


def completed_matrix(model: CompletionModel, training: ObservedEntries) -> CompletedMatrix:
    """Compute what a trained model predicts; rows and columns without training entries get zero factors and biases.

    Args:
        model: on the CPU.
        training: the entries that the model was trained on; implicit feedback reads where they are.
    """
    in_row, in_column = (count > 0 for count in counts(training))
    scale = model.scale.item()
    with torch.no_grad():
        seen = Seen.of(training.to(dtype=model.row_bias.dtype))
        augmented = model.predicting_factors(model.explicit_factors(), seen)
        left, right = (factor[:, :-2].double().numpy() for factor in augmented)
        row_bias, column_bias = (bias.double().numpy() for bias in (model.row_bias, model.column_bias))
    return CompletedMatrix(
        mean=model.mean.item(),
        row_bias=np.where(in_row, scale * row_bias, 0.0),
        column_bias=np.where(in_column, scale * column_bias, 0.0),
        left=np.where(in_row[:, None], scale * left, 0.0),
        right=np.where(in_column[:, None], right, 0.0),
    )
