"""New data for a fitted `MatrixCompletion`, and how any data are read for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted, validate_data

from dmf.completion.answers import Answers
from dmf.completion.biases import has_columns, has_mean, has_rows
from dmf.completion.data import Axes, Ids, Listed, listed_entries, matrix_entries, merged, pairs_of
from dmf.completion.folding import fold
from dmf.completion.ids import read_ids
from dmf.completion.misreadings import (
    check_numbers,
    check_same_labels,
    check_same_order,
    named_axes,
    warn_of_matrix,
    with_gaps,
)
from dmf.completion.model import Trained
from dmf.completion.prediction import COMPLETED, CompletedMatrix
from dmf.completion.settings import check_settings
from dmf.completion.start import allowed_rank
from dmf.observed import ObservedEntries

DESCRIBING = ("n_features_in_", "feature_names_in_")  # scikit-learn's attributes of the fitted data


class Updates(Answers):
    """The methods that add entries; the settings and attributes are those of `MatrixCompletion`."""

    rank: int
    depth: int
    biases: bool | str
    implicit_feedback: bool
    warm_start: bool
    dtype: str
    weight_unit_: float

    def fold_in(
        self, X: Any, y: Any = None, values: ArrayLike | None = None, *, sample_weight: ArrayLike | None = None
    ) -> Any:
        """Add rows and columns that the fit did not have, by their entries; all others stay as they are, to the bit.

        Each new row gets the factors and the bias that fit its entries best while the columns are fixed, a ridge
        regression with the penalties of the fit (the equation is that of `dmf.completion.folding.solve_rows`); columns
        likewise. Entries of new rows in new columns fit only biases, since no factors are known there.

        Args:
            X, y, values, sample_weight: entries as in `fit`; the ids of each have a new row or a new column.

        Returns:
            The estimator.

        Raises:
            ValueError: as in `fit`, or if row and column of an entry are both known.
        """
        return self._folded(X, y, values, sample_weight, only_new=True)

    def partial_fit(
        self, X: Any, y: Any = None, values: ArrayLike | None = None, *, sample_weight: ArrayLike | None = None
    ) -> Any:
        """Add entries, and solve again for their rows and then for their columns, from all the entries of these.

        A step of `fold_in` for known rows and columns, too: it never raises the training objective, and what it does
        not touch stays as it is. An entry that is known is replaced. Before `fit`, it is `fit`.

        Args:
            X, y, values, sample_weight: entries as in `fit`; a matrix has the shape of the fitted one.

        Returns:
            The estimator.

        Raises:
            ValueError: as in `fit`.
        """
        if not hasattr(self, "entries_"):
            return self.fit(X, y, values, sample_weight=sample_weight)
        return self._folded(X, y, values, sample_weight, only_new=False)

    def _listed(self, X: Any, y: Any, values: Any, shape: Sequence[int] | None, weights: Any) -> Listed:
        """Read the entries of a fit; a warm start knows the ids of the earlier one."""
        in_pairs = values is None
        ids, values = self._ids_and_values(X, y, values, weights)
        if ids is None:
            if shape is not None:
                raise ValueError(f"shape={tuple(shape)} is for triplets only; a matrix X has its own shape")
            return self._matrix(X, weights, reset=True)
        if in_pairs:
            validate_data(self, X, reset=True, skip_check_array=True)
        known = self._axes if self._continues() and shape is None else None
        return listed_entries(ids, values, shape, known=known, weights=weights)

    def _ids_and_values(self, X: Any, y: Any, values: Any, weights: Any) -> tuple[Ids | None, Any]:
        """Return ids and values of listed entries; None if X is a matrix."""
        check_same_order(X, y, values, weights)
        if values is not None:
            return Ids(read_ids(X, "rows"), read_ids(y, "cols")), values
        return (pairs_of(X), y) if y is not None else (None, None)

    def _matrix(self, X: Any, weights: Any, *, reset: bool) -> Listed:
        """Read a matrix; without `reset` it must have the shape of the fitted one."""
        options = {"accept_sparse": ("csr", "csc", "coo"), "dtype": np.float64, "ensure_all_finite": "allow-nan"}
        try:
            matrix = validate_data(self, with_gaps(X), reset=reset, **options)
        except ValueError as error:
            check_numbers(error)
            raise
        if reset:
            warn_of_matrix(matrix)
        if not reset and matrix.shape != self._axes.shape:
            raise ValueError(
                f"the model was fitted to a matrix of shape {self._axes.shape}, and X has shape {matrix.shape}, so its "
                "rows are unknown; pass NaN where nothing is known, or rows, cols and values, to searches too "
                "(docs/dmf.md)"
            )
        listed = matrix_entries(matrix, weights)
        axes = named_axes(X, listed.axes)
        if not reset or self._continues():
            check_same_labels(axes, self._axes)
        return Listed(listed.entries, axes)

    def _folded(self, X: Any, y: Any, values: Any, weights: Any, *, only_new: bool) -> Any:
        """Merge the entries with those that are known, and solve for the rows and columns that they are in."""
        check_is_fitted(self)
        check_settings(self.get_params())
        ids, values = self._ids_and_values(X, y, values, weights)
        if ids is None:
            entries, axes = self._matrix(X, weights, reset=False).entries, self._axes
        else:
            entries, axes = listed_entries(ids, values, None, known=self._axes, weights=weights)
        trained = Trained(self.model_, torch.from_numpy(self.rows_), torch.from_numpy(self.columns_))
        rows, cols = entries.rows.unique(), entries.cols.unique()
        if only_new:
            known = torch.isin(entries.rows, trained.rows) & torch.isin(entries.cols, trained.cols)
            if bool(known.any()):
                place = int(known.nonzero()[0])
                row, col = axes.rows.ids(entries.rows.numpy()[place]), axes.cols.ids(entries.cols.numpy()[place])
                raise ValueError(
                    f"row {row} and column {col} are both known, and fold_in changes neither; use `partial_fit` for "
                    "entries of known rows and columns"
                )
            rows, cols = rows[~torch.isin(rows, trained.rows)], cols[~torch.isin(cols, trained.cols)]
        everything = merged(self.entries_, entries)
        weights = everything.weights
        even = everything if weights is None else everything.with_weights(weights / self.weight_unit_)
        parameters = self.get_params()
        folded = fold(self._completed(), trained, even, rows, cols, self._penalty(), parameters["biases"])
        if self.n_features_in_ == self._axes.cols.size != axes.cols.size:
            self._describe({"n_features_in_": axes.cols.size})
        self._keep(folded.trained, folded.completed, everything, axes)
        return self

    def _keep(self, trained: Trained, completed: CompletedMatrix, entries: ObservedEntries, axes: Axes) -> None:
        """Set the fitted attributes to a model and the entries that it is of."""
        self.model_ = trained.model
        self.rows_, self.columns_ = trained.rows.numpy(), trained.cols.numpy()
        self.__dict__.update(zip(COMPLETED, vars(completed).values(), strict=True))
        self.observed_range_ = (entries.values.min().item(), entries.values.max().item())
        self._know(entries, axes)

    def _know(self, entries: ObservedEntries, axes: Axes) -> None:
        self.entries_, self._axes = entries, axes
        self.row_ids_, self.column_ids_ = axes.rows.names, axes.cols.names

    def _continues(self) -> bool:
        return self.warm_start and hasattr(self, "model_")

    def _describe(self, attributes: dict[str, Any]) -> None:
        """Set scikit-learn's attributes of the data to exactly these."""
        for name in [name for name in DESCRIBING if name in vars(self)]:
            delattr(self, name)
        self.__dict__.update(attributes)

    def _previous(self, axes: Axes, shape: tuple[int, int]) -> Trained | None:
        """Return what to continue from, if this is a warm start."""
        if not self._continues():
            return None
        if [axis.names is None for axis in axes] != [axis.names is None for axis in self._axes]:
            raise ValueError(
                "warm_start continues with the earlier model, and only one of it and these data has names for its rows "
                "and columns; pass ids as in the earlier fit, or set warm_start=False to start again"
            )
        model = self.model_.factorization
        kind = (
            self.model_.row_feedback is not None,
            *self.model_.has_biases,
            str(model.left.dtype).removeprefix("torch."),
        )
        kept = (len(self.row_bias_), len(self.column_bias_))
        found = (*kept, model.rank, model.depth, *kind)
        biases = [has(self.biases) for has in (has_mean, has_rows, has_columns)]
        rank = allowed_rank(self.rank, shape)
        asked = (*shape, rank, self.depth, bool(self.implicit_feedback), *biases, self.dtype)
        if found[2:] != asked[2:] or shape[0] < kept[0] or shape[1] < kept[1]:
            raise ValueError(
                "warm_start continues with the current model, whose (rows, columns, rank, depth, implicit feedback, "
                "mean, row biases, column biases, dtype) are "
                f"{found}, but the settings and data need {asked}; pass shape=, or set warm_start=False to start again"
            )
        return Trained(self.model_, torch.from_numpy(self.rows_), torch.from_numpy(self.columns_))
