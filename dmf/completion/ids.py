"""What users call their rows and columns, integers or names, and the numbers that a model has for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from torch import Tensor

from dmf.observed import largest_side


def from_torch(values: Any) -> Any:
    """Return a tensor as an array, or as a scipy sparse one with all entries that it stores; anything else as it is.

    Raises:
        ValueError: for a sparse tensor that is no matrix of numbers.

    >>> from_torch(torch.ones(1, requires_grad=True).bfloat16()), from_torch(torch.eye(2).to_sparse()).nnz
    (array([1.], dtype=float32), 2)
    """
    if not isinstance(values, Tensor):
        return values
    tensor = values.detach()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()  # NumPy has no bfloat16
    if tensor.layout is torch.strided:
        return tensor.numpy(force=True)
    if tensor.layout is not torch.sparse_coo:
        tensor = tensor.to_sparse()
    if tensor.sparse_dim() != 2 or tensor.dense_dim() != 0:
        raise ValueError(
            f"a sparse tensor must be a matrix of numbers, got shape {tuple(tensor.shape)} with {tensor.sparse_dim()} "
            "sparse dimensions; pass a matrix with two"
        )
    rows, cols = tensor._indices().numpy(force=True)  # indices() of a tensor with repeated entries adds them up
    return coo_array((tensor._values().numpy(force=True), (rows, cols)), shape=tuple(tensor.shape))


def check_dense(values: Any, what: str) -> None:
    """Raise for a sparse tensor: a list of entries has no gaps.

    Raises:
        ValueError: then.
    """
    if isinstance(values, Tensor) and values.layout is not torch.strided:
        raise ValueError(f"{what} are a sparse tensor, and each entry needs one; pass a dense one, `.to_dense()`")


def as_array(ids: ArrayLike) -> ndarray:
    """Return ids as an array, one of objects for a list with text: NumPy would make text of all else in it, NaN too.

    >>> as_array(["ann", float("nan")]).tolist(), as_array([3, 1]).dtype.kind
    (['ann', nan], 'i')
    """
    array = np.asarray(from_torch(ids))
    return np.asarray(ids, dtype=object) if array.dtype.kind == "U" and isinstance(ids, (list, tuple)) else array


def unmasked(values: ArrayLike, what: str) -> ndarray:
    """Return an array; NumPy would forget which of its values are masked.

    Raises:
        ValueError: if some are, or they are a sparse tensor.

    >>> unmasked([1, 2], "values")
    array([1, 2])
    """
    check_dense(values, what)
    if np.ma.is_masked(values):
        raise ValueError(
            f"{np.ma.count_masked(values)} of the {what} are masked; leave these entries out, for instance with "
            "`~numpy.ma.getmaskarray(values)`"
        )
    return np.asarray(from_torch(values))


def read_ids(ids: ArrayLike, what: str) -> Shaped[ndarray, "*n"]:
    """Read ids as an array of int64 or of text.

    Args:
        ids: integers or text, of any shape; those of a table may be objects.
        what: what they are called in errors.

    Raises:
        ValueError: if they are anything else, or some are missing.

    >>> read_ids([3, 1], "rows"), read_ids(["ann", "bob"], "rows").tolist()
    (array([3, 1]), ['ann', 'bob'])
    """
    check_dense(ids, what)
    array = as_array(unmasked(ids, what) if isinstance(ids, np.ma.MaskedArray) else ids)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind == "O":
        array = _of_objects(array, what)
    if array.dtype.kind in "UT":
        return array.astype(str)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{what} must be integers or text, got {getattr(ids, 'dtype', array.dtype)}; convert whole floats with "
            "`.astype(int)`, and other names with `.astype(str)`"
        )
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{what} go up to {array.max()}, beyond 64-bit integers; pass them as text: `.astype(str)`")
    return array.astype(np.int64)


def _of_objects(array: ndarray, what: str) -> ndarray:
    flat = array.ravel().tolist()
    for kind, dtype in ((str, np.str_), (Integral, np.int64)):
        if all(isinstance(each, kind) and not isinstance(each, bool) for each in flat):
            return array.astype(dtype)
    other = next(each for each in flat if not isinstance(each, type(flat[0])) or not isinstance(each, (str, Integral)))
    raise ValueError(
        f"{what} must be integers or text, all of one kind, got {other!r} among them; leave out entries without an id, "
        "and convert other names with `.astype(str)`"
    )


@dataclass(frozen=True, eq=False)
class Axis:
    """The ids of the rows of a matrix, or of its columns, and the numbers 0, 1, ... that they have.

    Attributes:
        size: how many there are.
        names: the id of each number; None where an integer id is the number itself.
    """

    size: int
    names: Shaped[ndarray, " size"] | None = None

    @cached_property
    def _order(self) -> ndarray:
        return np.argsort(self._known, kind="stable")

    @property
    def _known(self) -> ndarray:
        return np.arange(self.size) if self.names is None else self.names

    def numbers(self, ids: Shaped[ndarray, "*n"], what: str) -> Int[Tensor, "*n"]:
        """Return the number of each id; an id that is not known gets `size`.

        Raises:
            ValueError: if they are text where the known ones are integers, or the other way round, or a number is
                negative.

        >>> Axis(2, np.array(["bob", "ann"])).numbers(np.array(["ann", "eve"]), "rows")
        tensor([1, 2])
        """
        self._check_kind(ids, what)
        if self.names is None:
            return torch.as_tensor(np.minimum(ids, self.size))
        if self.size == 0:
            return torch.zeros(ids.shape, dtype=torch.int64)
        order = self._order
        place = np.minimum(np.searchsorted(self.names, ids, sorter=order), self.size - 1)
        found = order[place]
        return torch.as_tensor(np.where(self.names[found] == ids, found, self.size))

    def ids(self, numbers: Int[ndarray, "*n"]) -> Shaped[ndarray, "*n"]:
        """Return the ids of these numbers."""
        return numbers if self.names is None else self.names[numbers]

    def extended(self, ids: Shaped[ndarray, " n"], what: str) -> Axis:
        """Return the axis with all of these ids; the numbers of those that are known stay as they are.

        >>> Axis(2, np.array(["bob", "ann"])).extended(np.array(["eve", "ann"]), "rows").names.tolist()
        ['bob', 'ann', 'eve']
        """
        self._check_kind(ids, what)
        if self.names is None:
            return Axis(max(self.size, int(ids.max(initial=-1)) + 1))
        new = np.setdiff1d(ids, self.names)
        return Axis(self.size + len(new), np.concatenate([self.names, new])) if len(new) else self

    def _check_kind(self, ids: ndarray, what: str) -> None:
        known = "U" if self.names is not None and self.names.dtype.kind == "U" else "i"
        if ids.size and ids.dtype.kind != known:
            kinds = {"U": "text", "i": "integers"}
            raise ValueError(
                f"{what} are {kinds[ids.dtype.kind]}, and those that the model was fitted to are {kinds[known]}; pass "
                "the ids of the fit, in the same kind"
            )
        if self.names is None and ids.size and int(ids.min()) < 0:
            raise ValueError(
                f"{what} range from {ids.min()} to {ids.max()}, and numbers count from 0; a missing id is often -1: "
                "leave out such entries, or pass ids as text"
            )


def axis_of(ids: Shaped[ndarray, " n"], what: str, size: int | None) -> Axis:
    """Make the axis of the ids of a matrix's entries.

    Integers are numbers, so that room may be left for others, as in a matrix; but text, and integers far beyond the
    entries, such as those of a database, are names, sorted.

    Args:
        size: how many rows, or columns, the matrix has; None takes what the ids need.

    Raises:
        ValueError: if there is a size, and the ids are names.

    >>> axis_of(np.array([76561198000000000, 5]), "rows", None).names, axis_of(np.array([2, 5]), "rows", None)
    (array([                5, 76561198000000000]), Axis(size=6, names=None))
    """
    if ids.dtype.kind != "U":
        if size is not None:
            return Axis(size).extended(ids[:0], what)
        if ids.size == 0 or ids.max() < largest_side(len(ids)):
            return Axis(0).extended(ids, what)
    elif size is not None:
        raise ValueError(f"shape is for numbers, and the {what} are text; leave it out: the ids say how many there are")
    known = np.unique(ids)
    return Axis(len(known), known)
