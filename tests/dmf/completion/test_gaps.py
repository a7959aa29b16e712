"""What is missing stays missing: masked arrays, and sparse matrices that store an entry twice."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scipy import sparse

from dmf import MatrixCompletion
from tests.dmf.completion.cases import ratings

QUICK = {"rank": 4, "max_epochs": 3, "random_state": 0}


def test_what_is_masked_is_missing() -> None:
    masked = np.ma.masked_invalid(ratings())
    model, other = MatrixCompletion(**QUICK).fit(masked), MatrixCompletion(**QUICK).fit(ratings())
    assert len(model.entries_) == len(other.entries_) == masked.count()
    assert np.array_equal(model.transform(masked), other.transform(ratings()))
    assert model.score(masked) == other.score(ratings())


def test_masked_ids_and_values_are_refused() -> None:
    masked = np.ma.masked_equal([0, 1, 2], 1)
    for data, what in (((masked, [0, 1, 2], [1.0, 2.0, 3.0]), "rows"), (([0, 1, 2], [0, 1, 2], masked), "values")):
        with pytest.raises(ValueError, match=f"1 of the {what} are masked; leave these entries out, for instance with"):
            MatrixCompletion(**QUICK).fit(*data)


@pytest.mark.parametrize("kind", [sparse.coo_array, sparse.csr_matrix, sparse.lil_array])
def test_a_sparse_table_is_filled_as_the_dense_one(kind) -> None:
    stored = kind(np.nan_to_num(ratings()))
    model = MatrixCompletion(**QUICK).fit(ratings())
    assert np.array_equal(model.transform(stored), model.transform(ratings()))


def test_an_entry_that_is_stored_twice_is_refused() -> None:
    model = MatrixCompletion(**QUICK).fit(ratings())
    twice = sparse.coo_array(([1.0, 2.0, 3.0], ([0, 1, 1], [0, 4, 4])), shape=ratings().shape)
    for call in (model.fit, model.transform, model.score):
        with pytest.raises(ValueError, match=r"1 entries are given more than once, the first is \(1, 4\)"):
            call(twice)
