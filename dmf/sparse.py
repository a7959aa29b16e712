"""Products that touch a fixed set of matrix entries only: O(nnz k) work, O(nnz) extra memory, forward and backward.

`sampled_product` evaluates `left right^T` at the entries; `sparse_product` multiplies by a sparse matrix with values at
the entries. Each is the derivative of the other, so both can be differentiated any number of times.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

__all__ = ["SparsityPattern", "entry_products", "sampled_product", "sparse_product"]

GATHERED_ELEMENTS = 2**18  # of one block of `entry_products`: it and its twin stay in the cache


@dataclass(frozen=True, eq=False)
class SparsityPattern:
    """Where a sparse matrix has entries, by rows (CSR) and by columns (CSR of the transpose).

    Entry n lies in row i_n and column j_n; entries are sorted by row, then by column. Indices are 32-bit where they
    fit, for half the memory and faster products.

    Attributes:
        shape: (rows, columns) of the matrix.
        row_pointers, columns: CSR indices.
        column_pointers, rows: CSR indices of the transposed matrix.
        permutation: `values[permutation]` sorts values by column, then by row.
    """

    shape: tuple[int, int]
    row_pointers: Int[Tensor, " rows_plus_one"]
    columns: Int[Tensor, " nnz"]
    column_pointers: Int[Tensor, " columns_plus_one"]
    rows: Int[Tensor, " nnz"]
    permutation: Int[Tensor, " nnz"]

    @classmethod
    def from_sorted(
        cls, rows: Int[Tensor, " nnz"], cols: Int[Tensor, " nnz"], shape: tuple[int, int]
    ) -> SparsityPattern:
        """Build the pattern of distinct entries that are sorted by row, then by column.

        >>> SparsityPattern.from_sorted(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2]), (2, 3)).permutation
        tensor([1, 0, 2], dtype=torch.int32)
        """
        index = torch.int32 if max(*shape, len(rows)) < 2**31 - 1 else torch.int64
        permutation = torch.argsort(cols, stable=True)
        pattern = cls(
            shape=(int(shape[0]), int(shape[1])),
            row_pointers=_pointers(rows, shape[0]).to(index),
            columns=cols.to(index),
            column_pointers=_pointers(cols, shape[1]).to(index),
            rows=rows[permutation].to(index),
            permutation=permutation.to(index),
        )
        with warnings.catch_warnings():  # torch warns once that compressed sparse tensors are in beta
            warnings.simplefilter("ignore", UserWarning)
            pattern.matrix(torch.zeros(1, device=rows.device).expand(len(rows)))
        return pattern

    def __len__(self) -> int:
        return self.columns.numel()

    def matrix(self, values: Float[Tensor, " nnz"]) -> Tensor:
        """Return the sparse CSR tensor with these values."""
        return torch.sparse_csr_tensor(self.row_pointers, self.columns, values, size=self.shape, check_invariants=False)

    def transposed_matrix(self, values: Float[Tensor, " nnz"]) -> Tensor:
        """Return the sparse CSR tensor of the transposed matrix; `values` are in the order of this pattern."""
        return torch.sparse_csr_tensor(
            self.column_pointers,
            self.rows,
            values.index_select(0, self.permutation),
            size=self.shape[::-1],
            check_invariants=False,
        )

    def to(self, device: torch.device | str) -> SparsityPattern:
        """Move the pattern to another device."""
        names = ("row_pointers", "columns", "column_pointers", "rows", "permutation")
        return SparsityPattern(self.shape, **{name: getattr(self, name).to(device) for name in names})


def sampled_product(
    left: Float[Tensor, "out k"], right: Float[Tensor, "in k"], pattern: SparsityPattern
) -> Float[Tensor, " nnz"]:
    """Return the entries of `left right^T` in a sparsity pattern: `e_n = <left[i_n], right[j_n]>`.

    Args:
        left, right: float32 or float64, on the device of the pattern; k is free.
        pattern: sparse shape (out, in).

    Returns:
        One value for each entry, in the order of the pattern; differentiable, also twice.

    Raises:
        ValueError: if shapes, dtypes or devices do not match.

    >>> pattern = SparsityPattern.from_sorted(torch.tensor([0, 1]), torch.tensor([2, 0]), (2, 3))
    >>> sampled_product(torch.ones(2, 4), torch.ones(3, 4), pattern)
    tensor([4., 4.])
    """
    if left.ndim != 2 or right.ndim != 2 or (left.shape[0], right.shape[0]) != pattern.shape:
        raise ValueError(
            f"factors of shapes {tuple(left.shape)} and {tuple(right.shape)} do not give a matrix of shape "
            f"{pattern.shape}; pass left (out, k) and right (in, k)"
        )
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"left has {left.shape[1]} columns and right has {right.shape[1]}; the numbers must be equal")
    _check_kind(left, right, pattern)
    return _SampledProduct.apply(left, right, pattern)


def sparse_product(
    values: Float[Tensor, " nnz"],
    matrix: Float[Tensor, "inner k"],
    pattern: SparsityPattern,
    *,
    transposed: bool = False,
) -> Float[Tensor, "outer k"]:
    """Return `S matrix` or `S^T matrix`, where S is sparse with the given values in the pattern.

    Args:
        values: in the order of the pattern.
        matrix: (in, k), or (out, k) if `transposed`.

    Raises:
        ValueError: if shapes, dtypes or devices do not match.

    >>> pattern = SparsityPattern.from_sorted(torch.tensor([0, 1]), torch.tensor([2, 0]), (2, 3))
    >>> sparse_product(torch.tensor([5.0, 7.0]), torch.eye(3), pattern)
    tensor([[0., 0., 5.],
            [7., 0., 0.]])
    """
    inner = pattern.shape[0 if transposed else 1]
    if values.shape != (len(pattern),) or matrix.ndim != 2 or matrix.shape[0] != inner:
        raise ValueError(
            f"this pattern needs {len(pattern)} values and a matrix of {inner} rows, got values of shape "
            f"{tuple(values.shape)} and a matrix of shape {tuple(matrix.shape)}"
        )
    _check_kind(values, matrix, pattern)
    return _SparseProduct.apply(values, matrix, pattern, transposed)


def entry_products(
    left: Float[Tensor, "out k"],
    right: Float[Tensor, "in k"],
    rows: Int[Tensor, " n"],
    cols: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Return the entries (rows[n], cols[n]) of `left right^T`, in any order and with repetitions.

    Rows of both factors are gathered block by block: without autograd the extra memory is constant; with it, O(n k) is
    kept for backward. To train on many entries, `sampled_product` is several times faster and keeps nothing.

    >>> entry_products(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 1]), torch.tensor([0, 0]))
    tensor([2., 2.])
    """
    block = max(1, GATHERED_ELEMENTS // max(1, left.shape[1]))
    pairs = zip(rows.split(block), cols.split(block), strict=True)
    return torch.cat([(left.index_select(0, i) * right.index_select(0, j)).sum(1) for i, j in pairs])


def _pointers(sorted_or_not: Tensor, size: int) -> Tensor:
    counts = torch.bincount(sorted_or_not, minlength=size)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _check_kind(first: Tensor, second: Tensor, pattern: SparsityPattern) -> None:
    if first.dtype != second.dtype or first.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"sparse products need both operands in float32 or both in float64, got {first.dtype} and "
            f"{second.dtype}; convert them with `.float()` or `.double()`"
        )
    if not first.device == second.device == pattern.columns.device:
        raise ValueError(
            f"operands are on {first.device} and {second.device}, the pattern is on {pattern.columns.device}; move "
            "them to one device with `.to(device)`"
        )


class _SampledProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, left: Tensor, right: Tensor, pattern: SparsityPattern) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.pattern = pattern  # type: ignore[attr-defined]
        zeros = pattern.matrix(left.new_zeros(len(pattern)))
        return torch.sparse.sampled_addmm(zeros, left, right.mT, beta=0.0).values()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right = ctx.saved_tensors
        need_left, need_right, _ = ctx.needs_input_grad
        return (
            _SparseProduct.apply(grad, right, ctx.pattern, False) if need_left else None,
            _SparseProduct.apply(grad, left, ctx.pattern, True) if need_right else None,
            None,
        )


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, matrix: Tensor, pattern: SparsityPattern, transposed: bool) -> Tensor:
        ctx.save_for_backward(values, matrix)
        ctx.pattern, ctx.transposed = pattern, transposed  # type: ignore[attr-defined]
        sparse = pattern.transposed_matrix(values) if transposed else pattern.matrix(values.contiguous())
        return sparse @ matrix

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, matrix = ctx.saved_tensors
        left, right = (matrix, grad) if ctx.transposed else (grad, matrix)
        return (
            _SampledProduct.apply(left, right, ctx.pattern) if ctx.needs_input_grad[0] else None,
            _SparseProduct.apply(values, grad, ctx.pattern, not ctx.transposed) if ctx.needs_input_grad[1] else None,
            None,
            None,
        )
