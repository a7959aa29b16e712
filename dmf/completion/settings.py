"""The settings of `MatrixCompletion`, checked, and those of the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from dmf.completion.biases import BIASES
from dmf.completion.units import can_have_units


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the loop; decays are those of `CompletionModel.penalty`, for standardized values."""

    learning_rate: float
    gamma: float
    weight_decay: float
    bias_decay: float
    feedback_decay: float
    batch_size: int | None
    max_epochs: int
    patience: int
    seed: int
    progress_bar: bool


def noise_level(entries: int, shape: tuple[int, int]) -> float:
    """Return `sqrt(nnz / n_out) + sqrt(nnz / n_in)`, about the spectral norm of unit noise on that many random entries.

    Noise hides singular values of the data below it, so this level is the natural unit of a nuclear-norm penalty.

    Source: Bandeira and van Handel, Annals of Probability 2016, for matrices with independent entries.

    >>> noise_level(400, (4, 100))
    12.0
    """
    return math.sqrt(entries / shape[0]) + math.sqrt(entries / shape[1])


def _integer(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


def _number(low: float, *, strict: bool = False) -> Callable[[Any], bool]:
    def allowed(value: Any) -> bool:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and (value > low if strict else value >= low)

    return allowed


def _is_range(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and value[0] <= value[1]


RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "rank": (
        lambda value: _integer(2)(value) and value % 2 == 0,
        "an even integer of at least 2 (half of it comes from each side of the first gradient)",
    ),
    "depth": (_integer(1), "an integer of at least 1"),
    "init_scale": (_number(0, strict=True), "a positive number"),
    "gamma": (_number(0), "0 (which freezes the outer factors) or a positive number"),
    "biases": (
        lambda value: isinstance(value, bool) or (isinstance(value, str) and value in BIASES),
        f"True, False or one of {', '.join(map(repr, BIASES))}",
    ),
    "column_scales": (
        lambda value: isinstance(value, bool) or (isinstance(value, str) and value == "auto"),
        "'auto', True or False",
    ),
    "bias_decay": (_number(0), "0 or a positive number of observations"),
    "feedback_decay": (_number(0), "0 or a positive number"),
    "weight_decay": (_number(0), "0 or a positive number"),
    "learning_rate": (_number(0, strict=True), "a positive number"),
    "batch_size": (
        lambda value: value is None or _integer(1)(value),
        "None (all entries in one step) or a positive integer",
    ),
    "max_epochs": (_integer(1), "an integer of at least 1"),
    "validation_fraction": (
        lambda value: _number(0)(value) and value < 1,
        "0 (train on everything) or a number below 1",
    ),
    "patience": (_integer(1), "an integer of at least 1"),
    "clip": (
        lambda value: isinstance(value, bool) or _is_range(value),
        "True (the range of the observed values), False or a pair (lowest, highest)",
    ),
    "checkpoint_every": (_integer(1), "an integer of at least 1"),
    "dtype": (lambda value: value in ("float32", "float64"), "'float32' or 'float64'"),
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the settings before any data are touched.

    Args:
        settings: `MatrixCompletion.get_params()`.

    Raises:
        ValueError: if a value is out of range, or two values exclude each other.

    >>> check_settings({"depth": 0})
    Traceback (most recent call last):
    ...
    ValueError: depth must be an integer of at least 1, got 0
    """
    for name, value in settings.items():
        if name in RULES and not RULES[name][0](value):
            raise ValueError(f"{name} must be {RULES[name][1]}, got {value!r}")
    if settings.get("column_scales") is True and not can_have_units(settings["biases"]):
        raise ValueError(
            f"column_scales=True with biases={settings['biases']!r} would subtract one mean from columns in different "
            "units; use biases='both' or 'columns', biases=False for no mean at all, or column_scales=False"
        )
    if settings.get("implicit_feedback") and settings.get("batch_size") is not None:
        raise ValueError(
            f"implicit_feedback=True needs all entries in one step, got batch_size={settings['batch_size']}: each "
            "row's factor sums over all its entries; use batch_size=None or implicit_feedback=False"
        )
