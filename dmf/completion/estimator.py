"""The scikit-learn style estimator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from dmf.completion.biases import has_columns, has_mean, has_rows
from dmf.completion.data import entries_from_matrix, entries_from_triplets, index_vector, pairs_of
from dmf.completion.fitting import fit_model
from dmf.completion.model import CompletionModel, Trained
from dmf.completion.prediction import CompletedMatrix, completed_matrix
from dmf.completion.saving import Fitted, load_fitted, save_fitted
from dmf.completion.settings import check_settings
from dmf.completion.start import allowed_rank
from dmf.observed import ObservedEntries

DESCRIBING = ("n_features_in_", "feature_names_in_")  # scikit-learn's attributes of the fitted data
FITTED = (
    "mean_", "row_bias_", "column_bias_", "column_scale_", "left_", "right_", "rows_", "columns_", "observed_range_",
    "history_", "n_iter_", "best_epoch_", "validation_score_",
)  # fmt: skip


class MatrixCompletion(BaseEstimator):
    """Complete a matrix from some of its entries by a compressed deep factorization:

        x_ij = mean + s_j b_i + c_j + <l_i, r_j>,   l r^T = left core[L-1] ... core[0] right^T.

    Training starts in the subspace of the first gradient (Yaras et al., ICML 2024) and minimizes the squared error on
    the observed entries with Adam. Decay of l and r is a nuclear-norm penalty. Values are standardized, so the same
    settings work in any unit; s is 1 where all columns have one unit. A row or column without observations changes
    nothing else; it has factor and bias 0, so predictions fall back on what is known.

    Args:
        rank: width of the cores, even; for a matrix that allows no more, the largest possible.
        depth, init_scale: number of cores L, and their start `init_scale * I`.
        gamma: learning rate of left and right relative to `learning_rate`; 0 freezes them.
        biases: True or "both"; "global", "rows" or "columns"; False or "none".
        column_scales: whether each column is standardized by itself: "auto" for tables whose columns are in different
            units; or True, False.
        bias_decay: ridge penalty of b and c, a number of observations.
        weight_decay: penalty of l and r relative to the noise level; about 1 for noisy data. Exact data need 0, with
            init_scale=0.1 and more epochs: at 1 they are shrunk as if they were noise.
        implicit_feedback: also learn from *which* entries are observed (SVD++ for rows and columns): for ratings.
        feedback_decay: its penalty, in the same unit as weight_decay.
        learning_rate, max_epochs: of Adam, with cosine decay to 0.
        batch_size: entries in a step; None takes all.
        validation_fraction, patience: share of the entries held out, and epochs without improvement before stopping;
            the best state is restored. 0 trains on all entries for max_epochs.
        clip: True keeps predictions in the range of the observed values; or a pair of bounds.
        warm_start: `fit` continues from the current parameters, standardized for its own data: their unit may differ.
        checkpoint, checkpoint_every: file to resume an interrupted fit from, and the epochs between two writes of it;
            it is removed at the end.
        random_state, dtype, device, verbose: as usual; "float32" or "float64"; verbose=1 shows a progress bar.

    Attributes:
        left_, right_: l (n_out, rank) and r (n_in, rank), in the unit of the data.
        mean_, row_bias_, column_bias_, column_scale_: mean, b, c and s.
        rows_, columns_: numbers of the rows and columns that have observations; `model_` holds these alone.
        history_, n_iter_: errors after each epoch, and their number; relative to the columns' deviations, if those are
            scales.
        best_epoch_, validation_score_: with validation; the score is that of `score`.

    >>> import numpy as np
    >>> X = np.outer(np.arange(1.0, 9.0), np.arange(1.0, 7.0))
    >>> X[2, 3] = np.nan
    >>> model = MatrixCompletion(rank=2, biases=False, weight_decay=0, max_epochs=500, random_state=0).fit(X)
    >>> round(model.predict(2, 3).item())
    12
    """

    def __init__(
        self,
        rank: int = 20,
        *,
        depth: int = 3,
        init_scale: float = 1.0,
        gamma: float = 1.0,
        biases: bool | str = True,
        column_scales: bool | str = "auto",
        bias_decay: float = 5.0,
        weight_decay: float = 1.0,
        implicit_feedback: bool = False,
        feedback_decay: float = 2.0,
        learning_rate: float = 1e-2,
        max_epochs: int = 100,
        batch_size: int | None = None,
        validation_fraction: float = 0.0,
        patience: int = 20,
        clip: bool | tuple[float, float] = False,
        warm_start: bool = False,
        checkpoint: str | None = None,
        checkpoint_every: int = 10,
        random_state: Any = None,
        dtype: str = "float32",
        device: str = "cpu",
        verbose: int = 0,
    ) -> None:
        self.rank = rank
        self.depth = depth
        self.init_scale = init_scale
        self.gamma = gamma
        self.biases = biases
        self.column_scales = column_scales
        self.bias_decay = bias_decay
        self.weight_decay = weight_decay
        self.implicit_feedback = implicit_feedback
        self.feedback_decay = feedback_decay
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.clip = clip
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.random_state = random_state
        self.dtype = dtype
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, values: ArrayLike | None = None, *, shape: Sequence[int] | None = None) -> Any:
        """Fit to triplets, `fit(rows, cols, values)`, or to a matrix, `fit(X)`, dense with NaN or scipy sparse.

        Args:
            X: rows of the observed entries, from 0; or the matrix, where NaN or what is not stored is missing. In
                scikit-learn's form, `fit(X, y)`, two columns of integers: rows and columns of the entries.
            y: columns of the entries; without `values`, the values where X has two columns of integers, and ignored
                beside a matrix.
            values: of the entries; each entry is given once.
            shape: of the matrix, for listed entries; by default the largest indices decide.

        Returns:
            The estimator.

        Raises:
            ValueError: if a setting is out of range, or the data are empty, repeated, out of range or not finite.
        """
        check_settings(self.get_params())
        described = {name: value for name, value in vars(self).items() if name in DESCRIBING}
        try:
            entries = self._entries(X, y, values, shape, reset=True)
            fit = fit_model(entries, self.get_params(), self._previous(entries.shape))
        except BaseException:  # an earlier fit stays as it was
            self._describe(described)
            raise
        if values is not None:
            self._describe({"n_features_in_": entries.shape[1]})
        self.model_: CompletionModel = fit.trained.model
        self.rows_, self.columns_ = fit.trained.rows.numpy(), fit.trained.cols.numpy()
        completed = completed_matrix(fit.trained, fit.training, entries.shape)
        self.mean_, self.row_bias_, self.column_bias_ = completed.mean, completed.row_bias, completed.column_bias
        self.left_, self.right_, self.column_scale_ = completed.left, completed.right, completed.column_scale
        self.observed_range_ = (entries.values.min().item(), entries.values.max().item())
        self.history_, self.n_iter_ = fit.progress.history, fit.progress.epoch
        self.best_epoch_ = fit.progress.best_epoch if self.validation_fraction else fit.progress.epoch
        self.validation_score_ = -fit.progress.best_rmse if self.validation_fraction else None
        return self

    def predict(self, rows: Any, cols: ArrayLike | None = None) -> Float[ndarray, "*n"]:
        """Predict the entries (rows, cols), whose shapes are broadcast: `predict(3, range(5))` starts row 3.

        In scikit-learn's form, `predict(X)`, X has two columns of integers. Only there may rows and columns be beyond
        those of the matrix, as they are in a fold of a cross-validation: the prediction is what is known without them.

        Raises:
            ValueError: if they are not integers, do not broadcast, or are out of range.
        """
        check_is_fitted(self)
        if cols is not None:
            return self._clipped(self._completed().entries(index_vector(rows, "rows"), index_vector(cols, "cols")))
        pairs = pairs_of(rows)
        if pairs is None:
            raise ValueError(
                f"predict takes rows and cols, or two columns of integers, got X of shape {np.shape(rows)}; for the "
                "whole matrix use `complete()`"
            )
        return self._clipped(self._completed().known_part(*pairs))

    def complete(self) -> Float[ndarray, "out in"]:
        """Predict the whole matrix; `np.where(np.isnan(X), model.complete(), X)` keeps what was observed."""
        check_is_fitted(self)
        return self._clipped(self._completed().dense())

    def score(self, X: Any, y: Any = None, values: ArrayLike | None = None) -> float:
        """Return minus the root mean squared error on other entries, given as in `fit`: higher is better, 0 is perfect.

        In scikit-learn's form, `score(X, y)`, entries may be in new rows and columns, as for `predict(X)`.

        Raises:
            ValueError: if the matrix does not have the shape of the fitted one, so that its rows are other rows.
        """
        check_is_fitted(self)
        fitted = (len(self.row_bias_), len(self.column_bias_))
        entries = self._entries(X, y, values, fitted if values is not None else None, reset=False)
        in_pairs = values is None and y is not None and pairs_of(X) is not None
        if not in_pairs and entries.shape != fitted:
            raise ValueError(
                f"the model was fitted to a matrix of shape {fitted}, and X has shape {entries.shape}, so its rows are "
                "unknown; pass NaN where nothing is known, or rows, cols and values, to searches too (docs/dmf.md)"
            )
        predict = self._completed().known_part if in_pairs else self._completed().entries
        error = self._clipped(predict(entries.rows, entries.cols)) - entries.values.numpy()
        return -float(np.sqrt(np.mean(error**2)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and fitted state to one safetensors file, complete or not at all.

        Raises:
            ValueError: if random_state is a generator, which cannot be saved.
        """
        check_is_fitted(self)
        attributes = {name: vars(self)[name] for name in (*FITTED, *DESCRIBING) if name in vars(self)}
        save_fitted(path, Fitted(self.get_params(), attributes, self.model_))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MatrixCompletion:
        """Load the estimator that `save` wrote: predictions are bitwise equal, and `fit` with warm_start continues.

        Raises:
            FileNotFoundError, ValueError: if there is no such file, or it is damaged or something else.
        """
        fitted = load_fitted(path)
        estimator = cls(**fitted.parameters)
        estimator.__dict__.update(fitted.attributes, model_=fitted.model)
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.target_tags.required = False
        return tags

    def _entries(self, X: Any, y: Any, values: Any, shape: Sequence[int] | None, *, reset: bool) -> ObservedEntries:
        if values is not None:
            return entries_from_triplets(X, y, values, shape)
        if y is not None and (pairs := pairs_of(X)):
            if reset:
                validate_data(self, X, reset=True, skip_check_array=True)
            return entries_from_triplets(*pairs, y, shape)
        if shape is not None:
            raise ValueError(f"shape={tuple(shape)} is for triplets only; a matrix X has its own shape")
        options = {"accept_sparse": ("csr", "csc", "coo"), "dtype": np.float64, "ensure_all_finite": "allow-nan"}
        return entries_from_matrix(validate_data(self, X, reset=reset, **options))

    def _describe(self, attributes: dict[str, Any]) -> None:
        """Set scikit-learn's attributes of the data to these alone."""
        for name in [name for name in DESCRIBING if name in vars(self)]:
            delattr(self, name)
        self.__dict__.update(attributes)

    def _previous(self, shape: tuple[int, int]) -> Trained | None:
        """Return what to continue from, if this is a warm start."""
        if not (self.warm_start and hasattr(self, "model_")):
            return None
        model = self.model_.factorization
        kind = (
            self.model_.row_feedback is not None,
            *self.model_.has_biases,
            str(model.left.dtype).removeprefix("torch."),
        )
        found = (len(self.row_bias_), len(self.column_bias_), model.rank, model.depth, *kind)
        biases = [has(self.biases) for has in (has_mean, has_rows, has_columns)]
        rank = allowed_rank(self.rank, shape)
        asked = (*shape, rank, self.depth, bool(self.implicit_feedback), *biases, self.dtype)
        if found != asked:
            raise ValueError(
                "warm_start continues with the current model, whose (rows, columns, rank, depth, implicit feedback, "
                "mean, row biases, column biases, dtype) are "
                f"{found}, but the settings and data need {asked}; pass shape=, or set warm_start=False to start again"
            )
        return Trained(self.model_, torch.from_numpy(self.rows_), torch.from_numpy(self.columns_))

    def _completed(self) -> CompletedMatrix:
        parts = (self.mean_, self.row_bias_, self.column_bias_, self.left_, self.right_, self.column_scale_)
        return CompletedMatrix(*parts)

    def _clipped(self, predictions: Float[ndarray, "*n"]) -> Float[ndarray, "*n"]:
        if self.clip is False:
            return predictions
        return np.clip(predictions, *(self.observed_range_ if self.clip is True else self.clip))
