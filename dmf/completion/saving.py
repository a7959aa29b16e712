"""A fitted `MatrixCompletion` as one file, and back."""

from __future__ import annotations

import os
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dmf.completion.files import read_file, write_file
from dmf.completion.model import CompletionModel
from dmf.compressed import CompressedDMF

if TYPE_CHECKING:
    from dmf.completion.estimator import MatrixCompletion

Estimator = TypeVar("Estimator", bound="MatrixCompletion")

KIND = "dmf.MatrixCompletion"
ARRAYS = ("row_bias_", "column_bias_", "left_", "right_")
NUMBERS = ("mean_", "observed_range_", "history_", "n_iter_", "best_epoch_", "validation_score_", "n_features_in_")


def save_fitted(path: str | os.PathLike[str], estimator: MatrixCompletion) -> None:
    """Write settings, arrays and model of a fitted estimator.

    Raises:
        ValueError: if random_state is a generator.
    """
    parameters = estimator.get_params()
    seed = parameters["random_state"]
    if not (seed is None or isinstance(seed, Integral)):
        raise ValueError(
            f"random_state is a {type(seed).__name__}, which cannot be saved; set it to an integer or None with "
            "`set_params(random_state=0)`"
        )
    if parameters["checkpoint"] is not None:
        parameters["checkpoint"] = os.fspath(parameters["checkpoint"])
    tensors = {name: torch.from_numpy(getattr(estimator, name)) for name in ARRAYS}
    tensors |= {f"model.{name}": tensor for name, tensor in estimator.model_.state_dict().items()}
    content = {"parameters": parameters, "numbers": {name: getattr(estimator, name) for name in NUMBERS}}
    if hasattr(estimator, "feature_names_in_"):
        content["feature_names"] = estimator.feature_names_in_.tolist()
    write_file(path, KIND, tensors, content)


def load_fitted(path: str | os.PathLike[str], estimator_class: type[Estimator]) -> Estimator:
    """The estimator that `save_fitted` wrote.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or it is damaged or something else.
    """
    tensors, content = read_file(path, KIND)
    parameters = content["parameters"]
    if isinstance(parameters["clip"], list):
        parameters["clip"] = tuple(parameters["clip"])
    estimator = estimator_class(**parameters)
    for name, value in content["numbers"].items():
        setattr(estimator, name, tuple(value) if name == "observed_range_" else value)
    for name in ARRAYS:
        setattr(estimator, name, tensors[name].numpy())
    if "feature_names" in content:
        estimator.feature_names_in_ = np.array(content["feature_names"], dtype=object)
    estimator.model_ = _model({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, parameters)
    return estimator


def _model(state: dict[str, Tensor], parameters: dict[str, Any]) -> CompletionModel:
    left, core = state["factorization.left"], state["factorization.core"]
    n_out, n_in = len(left), len(state["factorization.right"])
    model = CompletionModel(
        CompressedDMF(n_out, n_in, core.shape[-1], depth=len(core), dtype=left.dtype, generator=torch.Generator()),
        torch.zeros(n_out),
        torch.zeros(n_in),
        biases=parameters["biases"],
        mean=0.0,
        scale=1.0,
        feedback="row_feedback" in state,
    )
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in model.state_dict()})
    return model
