"""The settings and the fitted state of a matrix completion as one file, and back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmf.completion.data import Axes, Listed
from dmf.completion.ids import Axis
from dmf.completion.model import CompletionModel, factorization_of
from dmf.completion.storage.files import read_file, write_file
from dmf.observed import ObservedEntries

KIND = "dmf.MatrixCompletion"
COLUMN_NAMES = "feature_names_in_"  # an array of text, which no tensor holds


@dataclass(frozen=True)
class Fitted:
    """What `MatrixCompletion` keeps of a fit.

    Attributes:
        parameters: its settings, by name.
        attributes: the fitted attributes, by name: numbers, tuples, lists and arrays.
        model: the trained model.
        data: all entries that are known, and what rows and columns are called.
    """

    parameters: dict[str, Any]
    attributes: dict[str, Any]
    model: CompletionModel
    data: Listed


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
    tensors |= _tensors_of_data(fitted.data)
    content = {"shape": fitted.data.axes.shape, "parameters": _plain_parameters(fitted.parameters), "numbers": numbers}
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
    arrays = {name: tensor for name, tensor in tensors.items() if not name.startswith(("model.", "data."))}
    attributes |= {name: tensor.numpy() for name, tensor in arrays.items()}
    if "feature_names" in content:
        attributes[COLUMN_NAMES] = np.array(content["feature_names"], dtype=object)
    state = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    return Fitted(parameters, attributes, _model(state, parameters["biases"]), _data(tensors, content["shape"]))


def _tensors_of_data(data: Listed) -> dict[str, Tensor]:
    entries = data.entries
    tensors = {"data.rows": entries.rows.int(), "data.cols": entries.cols.int(), "data.values": entries.values}
    if entries.weights is not None:
        tensors["data.weights"] = entries.weights
    for side, axis in data.axes._asdict().items():
        if axis.names is not None and axis.names.dtype.kind == "U":
            text = json.dumps(axis.names.tolist()).encode()
            tensors[f"data.text_of_{side}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        elif axis.names is not None:
            tensors[f"data.ids_of_{side}"] = torch.from_numpy(axis.names)
    return tensors


def _data(tensors: dict[str, Tensor], shape: list[int]) -> Listed:
    def axis(side: str, size: int) -> Axis:
        if (text := tensors.get(f"data.text_of_{side}")) is not None:
            return Axis(size, np.array(json.loads(text.numpy().tobytes())))
        ids = tensors.get(f"data.ids_of_{side}")
        return Axis(size, None if ids is None else ids.numpy())

    axes = Axes(axis("rows", shape[0]), axis("cols", shape[1]))
    rows, cols, values = (tensors[f"data.{name}"] for name in ("rows", "cols", "values"))
    return Listed(ObservedEntries(rows, cols, values, axes.shape, tensors.get("data.weights")), axes)


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
