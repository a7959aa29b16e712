"""Arrays in which NaN stands for what is missing, from masked arrays and sparse matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from dmf.observed import repeated_entries


def with_gaps(matrix: Any) -> Any:
    """Return a masked array with NaN where it is masked, and anything else as it is.

    >>> with_gaps(np.ma.masked_array([[1, 2]], [[False, True]]))
    array([[ 1., nan]])
    """
    return np.ma.filled(matrix.astype(np.float64), np.nan) if isinstance(matrix, np.ma.MaskedArray) else matrix


def stored(matrix: Any) -> Float[NDArray, "m n"]:
    """Return a scipy sparse matrix as a dense one, with NaN where nothing is stored.

    Raises:
        ValueError: if an entry is stored twice.

    >>> from scipy.sparse import csr_array
    >>> stored(csr_array([[0.0, 2.0]]))
    array([[nan,  2.]])
    """
    coo = matrix.tocoo()
    keys = coo.row.astype(np.int64) * coo.shape[1] + coo.col
    first = np.unique(keys, return_index=True)[1]
    if len(first) < len(keys):
        place = np.setdiff1d(np.arange(len(keys)), first)[0]
        raise repeated_entries(len(keys) - len(first), (coo.row[place], coo.col[place]))
    table = np.full(coo.shape, np.nan)
    table[coo.row, coo.col] = coo.data
    return table
