"""Gaussian and uniform starts of a chain, in the scale of the orthogonal one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dmf.functional import orthogonal


def matched_normal(
    rows: int,
    columns: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "rows columns"]:
    """Gaussian entries of variance `min(m, n) / (m n)`.

    The expected squared Frobenius norm is min(m, n), that of a matrix with orthonormal rows or columns; the operator
    norm is not matched (it comes near 2 for a square matrix, where an orthogonal one has 1).

    Source: the initialisers of Yaras et al., arXiv:2306.01154 (normal, rescaled by `sqrt(d) / sqrt(m n)`).

    >>> w = matched_normal(60, 40, generator=torch.Generator().manual_seed(0))
    >>> 0.9 < (w.square().sum() / 40).item() < 1.1
    True
    """
    gaussian_device = generator.device if generator is not None else device
    gaussian = torch.randn(rows, columns, generator=generator, dtype=dtype, device=gaussian_device)
    return (gaussian * _frobenius_scale(rows, columns)).to(device=device)


def matched_uniform(
    rows: int,
    columns: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "rows columns"]:
    """Entries uniform in (-b, b) with `b = sqrt(3 min(m, n) / (m n))`: mean, variance and norm of `matched_normal`.

    Source: the initialisers of Yaras et al., arXiv:2306.01154 (uniform, with the further factor sqrt(3)).

    >>> w = matched_uniform(60, 40, generator=torch.Generator().manual_seed(0))
    >>> 0.9 < (w.square().sum() / 40).item() < 1.1
    True
    """
    uniform_device = generator.device if generator is not None else device
    uniform = torch.rand(rows, columns, generator=generator, dtype=dtype, device=uniform_device)
    return ((2 * uniform - 1) * (3**0.5 * _frobenius_scale(rows, columns))).to(device=device)


STARTS: dict[str, Callable[..., Tensor]] = {
    "orthogonal": orthogonal,
    "normal": matched_normal,
    "uniform": matched_uniform,
}


def _frobenius_scale(rows: int, columns: int) -> float:
    return (min(rows, columns) / (rows * columns)) ** 0.5
