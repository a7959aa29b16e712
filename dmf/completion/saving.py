"""The settings and the fitted state of a matrix completion as one file, and back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmf.completion.files import read_file, write_file
from dmf.completion.model import CompletionModel, factorization_of

KIND = "dmf.MatrixCompletion"
COLUMN_NAMES = "feature_names_in_"  # an array of text, which no tensor holds


@dataclass(frozen=True)
class Fitted:
    """What `MatrixCompletion` keeps of a fit.

    Attributes:
        parameters: its settings, by name.
        attributes: the fitted attributes, by name: numbers, tuples, lists and arrays.
        model: the trained model.
    """

    parameters: dict[str, Any]
    attributes: dict[str, Any]
    model: CompletionModel


def save_fitted(path: str | os.PathLike[str], fitted: Fitted) -> None:
    """Write settings, fitted attributes and model to one file.

    Raises:
        ValueError: if random_state is a generator.
    """
    arrays = {name: value for name, value in fitted.attributes.items() if isinstance(value, np.ndarray)}
    numbers = {name: value for name, value in fitted.attributes.items() if name not in arrays}
    column_names = arrays.pop(COLUMN_NAMES, None)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors |= {f"model.{name}": tensor for name, tensor in fitted.model.state_dict().items()}
    content = {"parameters": _plain_parameters(fitted.parameters), "numbers": numbers}
    if column_names is not None:
        content["feature_names"] = column_names.tolist()
    write_file(path, KIND, tensors, content)


def load_fitted(path: str | os.PathLike[str]) -> Fitted:
    """Read what `save_fitted` wrote.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or it is damaged or something else.
    """
    tensors, content = read_file(path, KIND)
    parameters, attributes = content["parameters"], content["numbers"]
    if isinstance(parameters["clip"], list):  # JSON knows no tuples
        parameters["clip"] = tuple(parameters["clip"])
    attributes["observed_range_"] = tuple(attributes["observed_range_"])
    attributes |= {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith("model.")}
    if "feature_names" in content:
        attributes[COLUMN_NAMES] = np.array(content["feature_names"], dtype=object)
    state = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    return Fitted(parameters, attributes, _model(state, parameters["biases"]))


def _plain_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the settings as JSON can hold them."""
    seed, checkpoint = parameters["random_state"], parameters["checkpoint"]
    if not (seed is None or isinstance(seed, Integral)):
        raise ValueError(
            f"random_state is a {type(seed).__name__}, which cannot be saved; set it to an integer or None with "
            "`set_params(random_state=0)`"
        )
    return parameters | {"checkpoint": None if checkpoint is None else os.fspath(checkpoint)}


def _model(state: dict[str, Tensor], biases: bool | str) -> CompletionModel:
    left, core, right = (state[f"factorization.{name}"] for name in ("left", "core", "right"))
    model = CompletionModel(
        factorization_of(left, core, right),
        torch.zeros(len(left)),
        torch.zeros(len(right)),
        biases=biases,
        mean=0.0,
        scale=1.0,
        feedback="row_feedback" in state,
    )
    model.load_state_dict(state)
    return model
