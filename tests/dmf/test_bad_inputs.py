"""What a wrong input gets: an error whose text says what came and what is needed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dmf import (
    CompressedDMF,
    DeepMatrixFactorization,
    ObservedEntries,
    dense_loss,
    masked_loss,
    observed_loss,
    parameter_groups,
)
from dmf.linalg import effective_rank
from dmf.sparse import SparsityPattern, sampled_product, sparse_product
from dmf.theory import descend, invariance_residual, log_linear_fit, rho_recursion, whiten

NAN, INF = float("nan"), float("inf")


def entries(rows=(0, 1), cols=(1, 0), values=(1.0, 2.0), shape=(2, 3)) -> ObservedEntries:
    return ObservedEntries(torch.tensor(rows), torch.tensor(cols), torch.tensor(values), shape)


def no_entries() -> ObservedEntries:
    empty = torch.zeros(0, dtype=torch.long)
    return ObservedEntries(empty, empty, torch.zeros(0), (2, 2))


def from_zeros(rank: int = 2) -> CompressedDMF:
    return CompressedDMF.from_entries(entries(values=(0.0, 0.0)), rank)


def of_rank(rank: int, shape=(3, 4)) -> CompressedDMF:
    return CompressedDMF.from_entries(ObservedEntries.from_dense(torch.ones(shape)), rank)


def from_gradient(gradient=None, rank: int = 2, change=None, **settings) -> CompressedDMF:
    wide = DeepMatrixFactorization(4, 5, **settings)
    if change is not None:
        with torch.no_grad():
            wide.factors[1].add_(change)
    return CompressedDMF.from_gradient(wide, torch.randn(4, 5) if gradient is None else gradient, rank)


def pattern() -> SparsityPattern:
    return entries().pattern


def descent(num_steps: int = 2, every: int = 1, lr: float = 1.0) -> None:
    weight = nn.Parameter(torch.tensor(1.0))
    list(descend(lambda: weight.pow(4), torch.optim.SGD([weight], lr=lr), num_steps, every=every))


WRONG_DATA = {
    "triplets of unequal length": (
        lambda: entries(rows=(0,)),
        r"of equal length, got shapes \(1,\), \(2,\) and \(2,\)",
    ),
    "triplets in a table": (lambda: entries(rows=[[0]], cols=[[0]], values=[[1.0]]), "must be vectors of equal length"),
    "no entries": (no_entries, "no entries are observed; at least one is needed"),
    "indices that are not integers": (
        lambda: entries(rows=(0.0, 1.0)),
        r"integer indices, got torch.float32 and torch.int64",
    ),
    "indices that are booleans": (lambda: entries(cols=(True, False)), "must be integer indices"),
    "values that are integers": (lambda: entries(values=(1, 2)), "values must be float32 or float64, got torch.int64"),
    "a value that is NaN": (lambda: entries(values=(1.0, NAN)), "1 of 2 values are NaN or infinite"),
    "a value that is infinite": (lambda: entries(values=(-INF, INF)), "2 of 2 values are NaN or infinite"),
    "a row outside": (
        lambda: entries(rows=(0, 2)),
        "rows range from 0 to 2, but a matrix of shape 2 x 3 has rows 0 to 1",
    ),
    "a negative column": (lambda: entries(cols=(-1, 0)), "cols range from -1 to 0"),
    "an entry given twice": (
        lambda: entries(rows=(1, 0, 1), cols=(2, 0, 2), values=(1.0, 1.0, 1.0)),
        r"1 entries are given more than once, the first is \(1, 2\)",
    ),
    "a shape without columns": (lambda: entries(shape=(2, 0)), r"both at least 1, got \(2, 0\)"),
    "a shape of three numbers": (lambda: entries(shape=(2, 2, 2)), r"shape must be \(n_out, n_in\)"),
    "a mask of another shape": (
        lambda: ObservedEntries.from_dense(torch.ones(2, 2), torch.ones(2, 3)),
        r"mask of the same shape, got \(2, 2\) and \(2, 3\)",
    ),
    "a vector as data": (lambda: ObservedEntries.from_dense(torch.ones(2)), r"need a matrix \(out, in\)"),
    "only missing entries": (
        lambda: ObservedEntries.from_dense(torch.full((2, 2), NAN)),
        "no entries are observed",
    ),
    "a dense matrix as sparse data": (
        lambda: ObservedEntries.from_sparse(torch.ones(2, 2)),
        "use `ObservedEntries.from_dense`",
    ),
}

WRONG_MODELS = {
    "an odd rank": (lambda: of_rank(3), "rank must be even and positive .* got 3; use 4"),
    "rank zero": (lambda: of_rank(0), "rank must be even and positive .* got 0; use 2"),
    "a rank over the larger side": (
        lambda: of_rank(6),
        "rank 6 is too large for a matrix of 3 x 4: it may be at most 4",
    ),
    "a rank over twice the smaller side": (lambda: of_rank(4, (1, 9)), "it may be at most 2"),
    "observed zeros only": (from_zeros, "the first gradient is zero"),
    "a gradient of zero": (lambda: from_gradient(torch.zeros(4, 5)), "the first gradient is zero"),
    "a gradient of another shape": (
        lambda: from_gradient(torch.ones(5, 4)),
        r"gradient with respect to the product, of shape \(4, 5\), got \(5, 4\)",
    ),
    "a gradient with NaN": (lambda: from_gradient(torch.full((4, 5), NAN)), "gradient has NaN or infinite entries"),
    "an odd rank from a gradient": (lambda: from_gradient(rank=1), "rank must be even"),
    "a wide start that is Gaussian": (lambda: from_gradient(start="normal"), "not at an orthogonal start"),
    "a wide factorization that is narrow": (lambda: from_gradient(width=1, rank=4), "width at least max"),
    "a wide factorization after training": (lambda: from_gradient(change=0.1), "compress it before training"),
    "a matrix without rows": (lambda: DeepMatrixFactorization(0, 3), "n_out and n_in must be at least 1, got 0 and 3"),
    "a start of zero": (
        lambda: DeepMatrixFactorization(2, 3, init_scale=0.0),
        "init_scale must be a positive finite number",
    ),
    "a start that is NaN": (
        lambda: CompressedDMF(2, 3, 2, init_scale=NAN),
        "init_scale must be a positive finite number",
    ),
    "one factor": (lambda: DeepMatrixFactorization(2, 3, depth=1), "a depth of at least 2, got width 3 and depth 1"),
    "a width of zero": (lambda: DeepMatrixFactorization(2, 3, width=0), "needs a width of at least 1"),
    "an unknown start": (
        lambda: DeepMatrixFactorization(2, 3, start="xavier"),
        "start must be one of 'orthogonal', 'normal', 'uniform', got 'xavier'",
    ),
    "no core": (lambda: CompressedDMF(2, 3, 2, depth=0), "got depth 0 and rank 2"),
    "cores wider than the matrix": (lambda: CompressedDMF(2, 3, 4), "a rank from 1 to 3, got depth 3 and rank 4"),
    "rows without cols": (
        lambda: CompressedDMF(2, 3, 2)(torch.tensor([0])),
        "give both rows and cols for single entries",
    ),
    "rows and cols of unequal length": (
        lambda: CompressedDMF(2, 3, 2)(torch.tensor([0]), torch.tensor([0, 1])),
        r"must have the same shape, got \(1,\) and \(2,\)",
    ),
    "an entry outside": (
        lambda: DeepMatrixFactorization(2, 3)(torch.tensor([0]), torch.tensor([3])),
        "cols range from 3 to 3, but a matrix",
    ),
    "a target of another shape": (
        lambda: dense_loss(torch.ones(2, 2), torch.ones(2)),
        r"must have the same shape, got \(2, 2\) and \(2,\)",
    ),
    "a mask that would broadcast": (
        lambda: masked_loss(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 1)),
        "matrix, target and mask must have the same shape",
    ),
    "an unknown average": (
        lambda: masked_loss(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2), average="sum"),
        "must be 'observed' or 'all', got 'sum'",
    ),
    "an unknown average of entries": (
        lambda: observed_loss(torch.ones(2, 1), torch.ones(3, 1), entries(), average="none"),
        "must be 'observed' or 'all'",
    ),
    "factors of another matrix": (
        lambda: observed_loss(torch.ones(3, 1), torch.ones(2, 1), entries()),
        r"do not give a matrix of shape \(2, 3\); pass left \(out, k\) and right \(in, k\)",
    ),
    "factors of unequal width": (
        lambda: sampled_product(torch.ones(2, 1), torch.ones(3, 2), pattern()),
        "left has 1 columns and right has 2; the numbers must be equal",
    ),
    "factors of mixed precision": (
        lambda: sampled_product(torch.ones(2, 1), torch.ones(3, 1).double(), pattern()),
        "got torch.float32 and torch.float64",
    ),
    "factors in half precision": (
        lambda: sampled_product(torch.ones(2, 1).half(), torch.ones(3, 1).half(), pattern()),
        "both operands in float32 or both in float64",
    ),
    "factors on another device": (
        lambda: sampled_product(*(torch.ones(n, 1, device="meta") for n in (2, 3)), pattern()),
        "on meta and meta, the pattern is on cpu; move them to one device",
    ),
    "values for another pattern": (
        lambda: sparse_product(torch.ones(3), torch.ones(3, 1), pattern()),
        r"needs 2 values and a matrix of 3 rows, got values of shape \(3,\)",
    ),
    "a transposed product with the wrong side": (
        lambda: sparse_product(torch.ones(2), torch.ones(3, 1), pattern(), transposed=True),
        "a matrix of 2 rows",
    ),
    "a rate of zero": (lambda: parameter_groups(CompressedDMF(2, 3, 2), 0.0), "lr must be positive, got 0.0"),
    "a negative gamma": (
        lambda: parameter_groups(CompressedDMF(2, 3, 2), 1.0, -1.0),
        r"gamma must be 0 \(which freezes the outer factors\) or positive, got -1.0",
    ),
    "nothing to train": (
        lambda: parameter_groups(nn.Identity(), 1.0),
        "the model has no trainable parameter; check `requires_grad`",
    ),
}


WRONG_THEORY = {
    "no scales": (lambda: rho_recursion([], 0.1, 3), "needs the init_scale of every factor"),
    "steps back in time": (lambda: rho_recursion([1.0], 0.1, -1), r"at least 0 steps, got \[1.0\] and -1"),
    "a start that is missing": (
        lambda: invariance_residual([torch.eye(3)], [], torch.eye(3)[:, :1]),
        r"needs as many factors as starts, all of shape 3 x 3 .* got 0 starts and factors of shapes \[\(3, 3\)\]",
    ),
    "a last layer that is not square": (
        lambda: invariance_residual([torch.ones(2, 3)], [torch.ones(2, 3)], torch.eye(3)[:, :1]),
        "leave out layers that are not square",
    ),
    "negative singular values": (lambda: effective_rank(torch.tensor([-1.0])), "must be finite and not negative"),
    "singular values with NaN": (lambda: effective_rank(torch.tensor([NAN])), "must be finite and not negative"),
    "a line through one point": (lambda: log_linear_fit(torch.tensor([1.0])), "at least two positive finite values"),
    "the logarithm of zero": (lambda: log_linear_fit(torch.tensor([1.0, 0.0])), "at least two positive finite values"),
    "dependent columns": (lambda: whiten(torch.ones(4, 2)), "linearly dependent columns and cannot be whitened"),
    "fewer samples than columns": (lambda: whiten(torch.randn(2, 3)), "or take more samples"),
    "no stops": (lambda: descent(every=0), "every at least 1, got 2 steps and every 0 steps"),
    "a negative number of steps": (lambda: descent(num_steps=-1), "num_steps must be at least 0"),
}

WRONG = WRONG_DATA | WRONG_MODELS | WRONG_THEORY


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_gets_an_error_that_says_what_to_do(case):
    call, text = WRONG[case]
    with pytest.raises(ValueError, match=text):
        call()


def test_a_run_that_diverges_says_so():
    with pytest.raises(FloatingPointError, match="after 2 steps; use a smaller learning rate"):
        descent(num_steps=2, lr=1e3)
