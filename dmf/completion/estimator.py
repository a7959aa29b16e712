"""The scikit-learn style estimator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from dmf.completion.data import Listed, counted_values
from dmf.completion.fitting import fit_model
from dmf.completion.misreadings import warn_of_equal_values
from dmf.completion.prediction import COMPLETED, completed_matrix
from dmf.completion.settings import check_settings
from dmf.completion.storage.saving import Fitted, load_fitted, save_fitted
from dmf.completion.updates import DESCRIBING, Updates

FITTED = (
    *COMPLETED, "rows_", "columns_", "observed_range_", "history_", "n_iter_", "best_epoch_", "validation_score_",
    "noise_level_", "weight_unit_",
)  # fmt: skip


class MatrixCompletion(Updates, BaseEstimator):
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
        row_ids_, column_ids_: the ids in the order of these; None where an id is the number of the row.
        rows_, columns_: numbers of the rows and columns that have observations; `model_` holds only these.
        entries_: all entries that are known, as `dmf.ObservedEntries`; `save` writes them too.
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

    def fit(
        self,
        X: Any,
        y: Any = None,
        values: ArrayLike | None = None,
        *,
        shape: Sequence[int] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Any:
        """Fit to triplets, `fit(rows, cols, values)`, or to a matrix, `fit(X)`, dense with NaN or scipy sparse.

        Tensors of torch, dense or sparse, are read as such arrays. In a table of pandas, the index and the columns are
        the ids, unless they count from 0.

        Args:
            X: ids of the rows of the observed entries: numbers from 0, text, or any other integers; or the matrix,
                where NaN or what is not stored is missing. In scikit-learn's form, `fit(X, y)`, two columns of ids:
                rows and columns of the entries.
            y: ids of the columns of the entries; without `values`, the values where X has two columns of ids, and
                ignored beside a matrix.
            values: of the entries; each entry is given once.
            shape: of the matrix, for ids that are numbers; by default the largest ones decide.
            sample_weight: how much the squared error of each entry counts, relative to the others; 0 leaves it out.
                Beside a matrix, one for each row or for each entry.

        Returns:
            The estimator.

        Raises:
            ValueError: if a setting is out of range, or the data are empty, repeated, out of range or not finite.
        """
        check_settings(self.get_params())
        described = {name: value for name, value in vars(self).items() if name in DESCRIBING}
        try:
            entries, axes = self._listed(X, y, values, shape, sample_weight)
            fit = fit_model(entries, self.get_params(), self._previous(axes, entries.shape))
        except BaseException:  # an earlier fit stays as it was
            self._describe(described)
            raise
        warn_of_equal_values(entries.values.numpy())
        if values is not None:
            self._describe({"n_features_in_": entries.shape[1]})
        self._keep(fit.trained, completed_matrix(fit.trained, fit.training, entries.shape), entries, axes)
        self.history_, self.n_iter_ = fit.progress.history, fit.progress.epoch
        self.best_epoch_ = fit.progress.best_epoch if self.validation_fraction else fit.progress.epoch
        self.validation_score_ = -fit.progress.best_rmse if self.validation_fraction else None
        self.noise_level_, self.weight_unit_ = fit.noise_level, fit.weight_unit
        return self

    def score(
        self, X: Any, y: Any = None, values: ArrayLike | None = None, *, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return minus the root mean squared error on other entries, given as in `fit`: higher is better, 0 is perfect.

        Raises:
            ValueError: if the matrix differs in shape from the fitted one, so that its rows are unknown.
        """
        check_is_fitted(self)
        ids, true = self._ids_and_values(X, y, values, sample_weight)
        if ids is None:
            entries = self._matrix(X, sample_weight, reset=False).entries
            rows, cols, given, weights = entries.rows, entries.cols, entries.values, entries.weights
        else:
            ids, given, weights = counted_values(ids, true, sample_weight)
            rows, cols = self._axes.numbers(ids)
        error = self._clipped(self._completed().entries(rows, cols)) - given.numpy()
        return -float(np.sqrt(np.average(error**2, weights=weights)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and fitted state to one safetensors file, completely or not at all.

        Raises:
            ValueError: if random_state is a generator, which cannot be saved.
        """
        check_is_fitted(self)
        attributes = {name: vars(self)[name] for name in (*FITTED, *DESCRIBING) if name in vars(self)}
        save_fitted(path, Fitted(self.get_params(), attributes, self.model_, Listed(self.entries_, self._axes)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MatrixCompletion:
        """Load the estimator that `save` wrote: predictions are bitwise equal, and `fit` with warm_start continues.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or not a saved `MatrixCompletion`.
        """
        fitted = load_fitted(path)
        estimator = cls(**fitted.parameters)
        estimator.__dict__.update(fitted.attributes, model_=fitted.model)
        estimator._know(fitted.data.entries, fitted.data.axes)
        return estimator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.target_tags.required = False
        return tags
