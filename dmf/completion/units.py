"""Columns in different units: an offset and a unit for each, where one for all would be wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from dmf.completion.biases import has_columns, has_mean
from dmf.observed import ObservedEntries

ENOUGH = 3  # entries from which a column tells its unit
PRIOR = 5.0  # entries that the other columns count for, where a deviation is compared with an offset
UNLIKE = 1.0  # root mean square of the logarithms of the columns' deviations: a typical factor of e
FAR = 5.0  # root mean square of the columns' offsets, in their deviations
NOTHING = 1e-12  # relative to the values: less is rounding


class ColumnUnits(NamedTuple):
    """`x_ij = offset[j] + unit[j] * u_ij`, float64; a column of equal values has unit 0."""

    offset: Float[ndarray, " in"]
    unit: Float[ndarray, " in"]

    def without(self, entries: ObservedEntries) -> ObservedEntries:
        """Return the entries u, in float64 on the CPU.

        >>> entries = ObservedEntries.from_dense(torch.tensor([[1.0, 7.0], [5.0, 7.0]], dtype=torch.float64))
        >>> ColumnUnits(np.array([3.0, 7.0]), np.array([2.0, 0.0])).without(entries).values.tolist()
        [-1.0, 0.0, 1.0, 0.0]
        """
        cols = entries.cols
        offset, unit = (torch.from_numpy(each)[cols] for each in self)
        known = unit > 0
        return entries.with_values(torch.where(known, (entries.values - offset) / torch.where(known, unit, 1.0), 0.0))


def one_unit(columns: int) -> ColumnUnits:
    """Return units that change nothing."""
    return ColumnUnits(np.zeros(columns), np.ones(columns))


def has_one_unit(units: ColumnUnits) -> bool:
    """Say whether these units change nothing.

    >>> has_one_unit(one_unit(3))
    True
    """
    return bool((units.unit == 1.0).all()) and not bool(units.offset.any())


def can_have_units(biases: bool | str) -> bool:
    """Say whether columns can be standardized: each has a bias of its own, or nothing is subtracted at all."""
    return has_columns(biases) or not has_mean(biases)


def column_units(entries: ObservedEntries, biases: bool | str, wanted: bool | str) -> ColumnUnits:
    """Choose the unit of each column: its standard deviation around its mean, or its root mean square without biases.

    Args:
        entries: raw values in float64, on the CPU, with or without weights.
        biases: as in `MatrixCompletion`.
        wanted: True, False or "auto", which takes them only where one unit for all columns does not fit: their
            deviations differ by a typical factor of e, or their means lie far apart compared with their deviations.
            Ratings and pictures have one unit; tables of measurements do not.

    >>> table = np.array([[1.0, 1000.0], [2.0, 3000.0], [3.0, 2000.0]])
    >>> column_units(ObservedEntries.from_dense(torch.from_numpy(table)), True, "auto").offset.tolist()
    [2.0, 2000.0]
    """
    columns = entries.shape[1]
    if wanted is False or not can_have_units(biases):
        return one_unit(columns)
    cols, values = entries.cols.numpy(), entries.values.numpy()
    count = np.bincount(cols, minlength=columns)
    weights = np.ones(len(values)) if entries.weights is None else entries.weights.numpy()
    total = np.bincount(cols, weights, columns)
    total[total == 0] = 1.0
    offset = np.bincount(cols, weights * values, columns) / total if has_columns(biases) else np.zeros(columns)
    unit = np.sqrt(np.bincount(cols, weights * (values - offset[cols]) ** 2, columns) / total)
    largest = np.zeros(columns)
    np.maximum.at(largest, cols, np.abs(values))
    unit[unit <= NOTHING * largest] = 0.0
    distance = np.abs(offset - np.average(values, weights=weights)) if has_columns(biases) else np.zeros(columns)
    distance[distance <= NOTHING * largest.max()] = 0.0
    if wanted == "auto" and not _differ(count, distance, unit):
        return one_unit(columns)
    return ColumnUnits(offset, unit)


def _differ(count: ndarray, distance: Float[ndarray, " in"], unit: Float[ndarray, " in"]) -> bool:
    """Say whether columns are in different units, by those with enough entries; each entry counts the same."""
    telling = count >= ENOUGH
    if telling.sum() < 2:
        return False
    spread = telling & (unit > 0)
    if not spread.any():  # each column has equal values
        return bool(distance[telling].any())
    logarithm = np.log(unit[spread])
    unlike = _root_mean_square(logarithm - np.average(logarithm, weights=count[spread]), count[spread])
    usual = np.median(unit[spread])
    deviation = np.sqrt((count * unit**2 + PRIOR * usual**2) / (count + PRIOR))
    return unlike > UNLIKE or _root_mean_square((distance / deviation)[telling], count[telling]) > FAR


def _root_mean_square(values: ndarray, count: ndarray) -> float:
    return float(np.sqrt(np.average(values**2, weights=count)))
