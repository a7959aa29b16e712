"""What a fitted `MatrixCompletion` can be asked for: values, recommendations, similar columns, imputed tables."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from dmf.completion.data import Axes, Ids, matrix_entries, pairs_of
from dmf.completion.folding import Penalty, feedback_of, solve_rows
from dmf.completion.ids import read_ids
from dmf.completion.misreadings import check_same_labels, named_axes, stored, with_gaps
from dmf.completion.model import CompletionModel
from dmf.completion.prediction import COMPLETED, CompletedMatrix
from dmf.observed import ObservedEntries

SCORES = 2**23  # of one block of rows


class Ranked(NamedTuple):
    """The best columns, best first, and their scores: predicted values, or similarities."""

    items: Shaped[ndarray, "*n"]
    scores: Float[ndarray, "*n"]


class Answers(OneToOneFeatureMixin, TransformerMixin):
    """The methods that answer questions; the attributes of `MatrixCompletion` are declared for type checkers."""

    clip: bool | tuple[float, float]
    weight_decay: float
    bias_decay: float
    mean_: float
    row_bias_: Float[ndarray, " out"]
    column_bias_: Float[ndarray, " in"]
    column_scale_: Float[ndarray, " in"]
    left_: Float[ndarray, "out r"]
    right_: Float[ndarray, "in r"]
    rows_: Int[ndarray, " known"]
    columns_: Int[ndarray, " known"]
    n_features_in_: int
    observed_range_: tuple[float, float]
    noise_level_: float
    model_: CompletionModel
    entries_: ObservedEntries
    _axes: Axes

    def predict(self, rows: Any, cols: ArrayLike | None = None) -> Float[ndarray, "*n"]:
        """Predict the entries (rows, cols), whose shapes are broadcast: `predict(3, range(5))` starts row 3.

        In scikit-learn's form, `predict(X)`, X has two columns, the ids of rows and columns. For an
        unknown id the prediction is the mean plus the bias of the other side.

        Raises:
            ValueError: if ids are of another kind than those of the fit, or their shapes do not broadcast.
        """
        check_is_fitted(self)
        if cols is not None:
            return self._at(Ids(read_ids(rows, "rows"), read_ids(cols, "cols")))
        pairs = pairs_of(rows)
        if pairs is None:
            raise ValueError(
                f"predict takes rows and cols, or two columns of ids, got X of shape {np.shape(rows)}; for the whole "
                "matrix use `complete()`"
            )
        return self._at(pairs)

    def complete(self) -> Float[ndarray, "out in"]:
        """Predict the whole matrix; `np.where(np.isnan(X), model.complete(), X)` keeps what was observed.

        Where ids are names, its rows and columns are in the order of `row_ids_` and `column_ids_`.
        """
        check_is_fitted(self)
        return self._clipped(self._completed().dense())

    def recommend(self, users: ArrayLike, n: int = 10, *, exclude_seen: bool = True) -> Ranked:
        """Return for a row the n columns with the highest predictions, among those that have observations.

        Args:
            users: id of one row, or a list of ids; an unknown one gets the columns with the highest biases.
            n: the largest number of columns; a single row gets fewer if fewer are left.
            exclude_seen: leave out the columns in which the row has an observed entry.

        Returns:
            Column ids and predicted values, of shape (n,) for one row and (rows, n) for several.

        Raises:
            ValueError: if n is not positive, or one of several rows has fewer columns left.

        >>> from dmf import MatrixCompletion
        >>> users, films, stars = ["ann", "ann", "bob", "bob"], ["Alien", "Brazil", "Alien", "Charade"], [5, 1, 5, 4]
        >>> model = MatrixCompletion(random_state=0).fit(users, films, stars)
        >>> model.recommend("ann", 5).items
        array(['Charade'], dtype='<U7')
        """
        check_is_fitted(self)
        _check_count(n)
        ids = read_ids(users, "users")
        if ids.ndim > 1 or ids.size == 0:
            raise ValueError(f"users must be one id or a list of them, got an array of shape {ids.shape}")
        numbers = np.atleast_1d(self._axes.rows.numbers(ids, "users").numpy())
        blocks = [self._best(block, n, exclude_seen) for block in self._blocks(numbers)]
        items, scores = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        left = np.isfinite(scores).sum(-1)
        if ids.ndim == 0:
            items, scores = items[0, : left[0]], scores[0, : left[0]]
        elif left.min() < n:
            raise ValueError(
                f"user {ids[int(left.argmin())]} has {left.min()} items left to recommend, and n is {n}; ask "
                "for this user alone, who then gets what is left, or pass a smaller n"
            )
        return Ranked(self._axes.cols.ids(items), self._clipped(scores))

    def similar_items(self, item: Any, n: int = 10) -> Ranked:
        """Return the n columns most similar to a column: those that the same rows like, after biases are removed.

        The similarity is the cosine between the columns of `left_ @ right_.T`, which does not depend on the basis of
        the factors. Columns without factors have no similarity and are left out.

        Raises:
            ValueError: if the column is not known, its factors are zero, or there are several.
        """
        check_is_fitted(self)
        _check_count(n)
        ids = read_ids(item, "item ids")
        if ids.ndim:
            raise ValueError(f"item must be one id, got {item!r}; call this once for each item")
        number = self._axes.cols.numbers(ids, "item ids")
        if int(number) >= len(self.right_) or not self.right_[int(number)].any():
            raise ValueError(
                f"item {item!r} has no factors: it has no observations, or they say nothing beyond its bias; pass "
                "another one, or `fold_in` observations first"
            )
        root: ndarray = np.linalg.qr(self.left_[self.rows_], mode="r")  # type: ignore[assignment]  # |left x| = |root x|
        factors = self.right_[self.columns_] @ root.T
        norms = np.linalg.norm(factors, axis=1)
        own = self.right_[int(number)] @ root.T
        known = (norms > 0) & (self.columns_ != int(number))
        cosines = factors[known] @ own / (norms[known] * np.linalg.norm(own))
        best = np.argsort(-cosines, kind="stable")[:n]
        return Ranked(self._axes.cols.ids(self.columns_[known][best]), cosines[best])

    def transform(self, X: Any) -> Float[ndarray, "m in"]:
        """Fill in what is missing in the rows of a table, which may be new ones: each is solved for by `fold_in`.

        Raises:
            ValueError: if the columns of X and of the fitted matrix differ in number or labels, entries are missing in
                a column that had no observations, or a sparse matrix stores an entry twice.
        """
        check_is_fitted(self)
        given, X = X, with_gaps(X)
        options: dict[str, Any] = {"accept_sparse": ("csr", "csc", "coo"), "dtype": np.float64}
        if self.n_features_in_ == len(self.column_bias_):
            X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan", **options)
        else:  # a fit to pairs of ids, whose features are two
            X = check_array(X, ensure_all_finite="allow-nan", **options)
        if X.shape[1] != len(self.column_bias_):
            raise ValueError(
                f"X has {X.shape[1]} columns, and the fitted matrix {len(self.column_bias_)}; pass the same columns"
            )
        check_same_labels(named_axes(given, self._axes)._replace(rows=self._axes.rows), self._axes)
        table = stored(X) if issparse(X) else np.array(X, dtype=np.float64)
        missing = np.isnan(table)
        unknown = np.setdiff1d(np.flatnonzero(missing.any(0)), self.columns_)
        if len(unknown):
            raise ValueError(
                f"column {unknown[0]} had no observations in the fit, so its missing entries cannot be predicted; "
                f"leave it out ({len(unknown)} such columns)"
            )
        factors, biases = np.zeros((len(table), self.left_.shape[1])), np.zeros(len(table))
        if not missing.all():
            factors, biases = self._solved(table)
        filled = replace(self._completed(), row_bias=biases, left=factors).dense()
        return np.where(missing, self._clipped(filled), table)

    def fit_transform(self, X: Any, y: Any = None) -> Float[ndarray, "m in"]:
        """Fit to a table and fill in what is missing in it; y is ignored, as in scikit-learn's imputers."""
        return self.fit(X).transform(X)

    def _solved(self, table: Float[ndarray, "m in"]) -> tuple[Float[ndarray, "m r"], Float[ndarray, " m"]]:
        """Solve for rows on the fixed columns; return their factors and biases in the unit of the data."""
        entries, model, units = matrix_entries(table).entries, self.model_, self.column_scale_
        scale, cols = model.scale.item(), entries.cols.numpy()
        centered = entries.values.numpy() - self.mean_ - self.column_bias_[cols]
        centered = np.divide(centered, scale * units[cols], out=np.zeros_like(centered), where=units[cols] > 0)
        unit = units[:, None]
        fixed = torch.from_numpy(np.divide(self.right_, unit, out=np.zeros_like(self.right_), where=unit > 0))
        feedback = None
        if model.row_feedback is not None:
            vectors = torch.zeros_like(fixed)
            vectors[torch.from_numpy(self.columns_)] = model.row_feedback.detach().double()
            feedback = feedback_of(entries, vectors)
        zeros = torch.zeros(len(fixed), dtype=torch.float64)
        found = solve_rows(entries.with_values(torch.from_numpy(centered)), fixed, zeros, self._penalty(), feedback)
        factors = found.factors if feedback is None else found.factors + feedback
        return scale * factors.numpy(), scale * found.biases.numpy()

    def _penalty(self) -> Penalty:
        return Penalty(self.noise_level_ * self.weight_decay, self.bias_decay, self.model_.has_biases[1])

    def _blocks(self, rows: Int[ndarray, " m"]) -> Iterator[Int[ndarray, " b"]]:
        size = max(1, SCORES // len(self.columns_))
        return (rows[start : start + size] for start in range(0, len(rows), size))

    def _best(self, rows: Int[ndarray, " b"], n: int, exclude_seen: bool) -> Ranked:
        """Return the numbers of the best columns of these rows, and scores; those that are excluded have -inf."""
        scores = self._completed().some(rows, self.columns_)
        if exclude_seen:
            pattern = self.entries_.pattern
            pointers = pattern.row_pointers.numpy()
            for place, row in enumerate(rows):
                if row < len(pointers) - 1:
                    seen = pattern.columns[pointers[row] : pointers[row + 1]].numpy()
                    scores[place, np.searchsorted(self.columns_, seen)] = -np.inf
        kept = min(n, scores.shape[1])
        best = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
        found = np.take_along_axis(scores, best, 1)
        order = np.lexsort((best, -found))  # of equal scores, the lower number first
        return Ranked(self.columns_[np.take_along_axis(best, order, 1)], np.take_along_axis(found, order, 1))

    def _at(self, ids: Ids) -> Float[ndarray, "*n"]:
        rows, cols = self._axes.numbers(ids)
        unknown = (rows >= self._axes.rows.size).all() and (cols >= self._axes.cols.size).all()
        if rows.numel() > 1 and bool(unknown):
            warnings.warn(
                "none of these rows and none of these columns was in the fit, so each prediction is the mean; rows "
                "come first, then columns",
                stacklevel=3,
            )
        return self._clipped(self._completed().entries(rows, cols))

    def _completed(self) -> CompletedMatrix:
        return CompletedMatrix(*(getattr(self, name) for name in COMPLETED))

    def _clipped(self, predictions: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
        if self.clip is False:
            return predictions
        return np.clip(predictions, *(self.observed_range_ if self.clip is True else self.clip))


def _check_count(n: Any) -> None:
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be an integer of at least 1, got {n!r}")
