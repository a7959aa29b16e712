"""Entries of sparse matrices; and tensors of torch, which are read as the arrays that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from scipy.sparse import coo_array, coo_matrix, csc_array, csr_matrix

from dmf import MatrixCompletion
from tests.dmf.completion.cases import ratings, triplets

MATRIX = np.round(ratings() * 4) / 4  # exact in bfloat16
ROWS, COLS, VALUES = triplets(MATRIX)
SHAPE = MATRIX.shape
WEIGHTS = np.linspace(0, 2, len(VALUES)).round(1)


def model(**settings) -> MatrixCompletion:
    return MatrixCompletion(**{"rank": 4, "max_epochs": 3, "random_state": 0, **settings})


def stored(values=VALUES) -> torch.Tensor:
    with torch.sparse.check_sparse_tensor_invariants(False):
        return torch.sparse_coo_tensor(torch.tensor(np.stack([ROWS, COLS])), torch.tensor(values), SHAPE)


EXPECTED = model().fit(coo_array((VALUES, (ROWS, COLS)), shape=SHAPE)).complete()
DENSE = {
    "float64": lambda array: torch.tensor(array),
    "bfloat16": lambda array: torch.tensor(array).bfloat16(),
    "requires_grad": lambda array: torch.tensor(array, requires_grad=True),
    "a negative view": lambda array: torch.complex(torch.tensor(array), -torch.tensor(array)).conj().imag,
}
STORED = {
    "coo, not coalesced": stored,
    "coo": lambda: stored().coalesce(),
    "coo, requires_grad": lambda: stored().requires_grad_(),
    "coo, bfloat16": lambda: stored().bfloat16(),
    "csr": lambda: stored().to_sparse_csr(),
    "csc": lambda: stored().to_sparse_csc(),
}


@pytest.mark.parametrize("kind", DENSE)
def test_dense_tensors_are_arrays(kind) -> None:
    made = DENSE[kind]
    table = made(MATRIX)
    fitted = model().fit(table)
    np.testing.assert_array_equal(fitted.complete(), EXPECTED)
    np.testing.assert_array_equal(fitted.transform(table[:5]), fitted.transform(MATRIX[:5]))
    assert fitted.score(table) == fitted.score(MATRIX)
    triples = model().fit(torch.tensor(ROWS), torch.tensor(COLS), made(VALUES), shape=SHAPE)
    np.testing.assert_array_equal(triples.complete(), EXPECTED)
    pairs = model().fit(torch.tensor(np.stack([ROWS, COLS], 1)), made(VALUES))
    np.testing.assert_array_equal(pairs.predict(torch.tensor([[0, 1]])), pairs.predict([[0, 1]]))
    new = made(np.array([1.0, 2.0]))
    more, same = (model().fit(MATRIX).partial_fit([0, 1], [0, 0], each) for each in (new, np.array([1.0, 2.0])))
    np.testing.assert_array_equal(more.complete(), same.complete())


@pytest.mark.parametrize("kind", DENSE)
def test_dense_tensors_are_weights(kind) -> None:
    weights = np.round(WEIGHTS * 4) / 4
    expected = model().fit(ROWS, COLS, VALUES, sample_weight=weights).complete()
    np.testing.assert_array_equal(
        model().fit(ROWS, COLS, VALUES, sample_weight=DENSE[kind](weights)).complete(), expected
    )
    of_rows = np.linspace(0.5, 2, len(MATRIX)).round()
    expected = model().fit(MATRIX, sample_weight=of_rows).complete()
    np.testing.assert_array_equal(model().fit(MATRIX, sample_weight=DENSE[kind](of_rows)).complete(), expected)


@pytest.mark.parametrize("kind", STORED)
def test_sparse_tensors_are_sparse_matrices(kind) -> None:
    table = STORED[kind]()
    fitted = model().fit(table)
    np.testing.assert_allclose(fitted.complete(), EXPECTED, atol=1e-6)
    np.testing.assert_allclose(fitted.transform(table), fitted.transform(MATRIX))
    assert fitted.score(table) == pytest.approx(fitted.score(MATRIX))
    fitted.partial_fit(table)


def test_zeros_that_a_sparse_tensor_stores_are_observed() -> None:
    values = np.where(np.arange(len(VALUES)) % 3, VALUES, 0.0)
    for table in (stored(values), stored(values).to_sparse_csr()):
        assert len(model().fit(table).entries_) == len(VALUES)


@pytest.mark.parametrize("ask", ["fit", "transform"])
def test_an_entry_that_a_sparse_tensor_stores_twice_is_refused(ask) -> None:
    twice = torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, 2.0]), SHAPE)
    fitted = model().fit(MATRIX)
    with pytest.raises(ValueError, match=r"more than once, the first is \(0, 1\)"):
        getattr(fitted, ask)(twice)


BAD = {
    "sparse ids": (lambda: (stored().coalesce().indices()[0].to_sparse(), COLS, VALUES), "rows are a sparse tensor"),
    "bfloat16 ids": (
        lambda: (torch.tensor(ROWS).bfloat16(), COLS, VALUES),
        "rows must be integers or text, got torch.bfloat16; convert whole floats with",
    ),
    "sparse values": (lambda: (ROWS, COLS, torch.tensor(VALUES).to_sparse()), "values are a sparse tensor.*to_dense"),
    "a stack of matrices": (
        lambda: (torch.stack([stored(), stored()]),),
        r"a sparse tensor must be a matrix of numbers, got shape \(2, ",
    ),
    "rows of vectors": (
        lambda: (torch.tensor(np.nan_to_num(MATRIX)).to_sparse(1),),
        "a sparse tensor must be a matrix of numbers, .* 1 sparse dimensions",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_tensors_that_cannot_be_read_are_refused(name) -> None:
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        model().fit(*arguments())


def test_sparse_weights_are_refused() -> None:
    for given in ((MATRIX,), (ROWS, COLS, VALUES)):
        weights = torch.ones(len(given[0])).to_sparse()
        with pytest.raises(ValueError, match="sample_weight are a sparse tensor"):
            model().fit(*given, sample_weight=weights)


@pytest.mark.parametrize("kind", ["float32", "int64", "uint8"])
@pytest.mark.parametrize("form", [coo_matrix, csr_matrix, csc_array])
@pytest.mark.parametrize("ask", ["fit", "score", "transform", "partial_fit"])
def test_an_entry_that_is_stored_twice_is_refused_in_every_precision(kind, form, ask):
    """scipy adds them up when it converts to float64, which would make ratings of 4 and 5 one of 9."""
    repeated = coo_matrix((np.array([4, 5, 3], kind), ([0, 0, 1], [1, 1, 0])), shape=ratings().shape)
    if form is not coo_matrix:
        rows, cols = (repeated.row, repeated.col) if form is csr_matrix else (repeated.col, repeated.row)
        size = repeated.shape[0 if form is csr_matrix else 1]
        order = np.argsort(rows, kind="stable")
        pointers = np.searchsorted(rows[order], np.arange(size + 1))
        repeated = form((repeated.data[order], cols[order], pointers), shape=repeated.shape)
    fitted = model().fit(ratings())
    with pytest.raises(ValueError, match=r"more than once, the first is \(0, 1\)"):
        getattr(fitted, ask)(repeated)
    assert repeated.nnz == 3  # and theirs stays as it was
