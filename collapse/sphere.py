"""The unit sphere, row by row: projection onto it, tangent vectors, and geodesics."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def unit_rows(rows: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Divide every row by its Euclidean norm; a zero row stays zero and passes no gradient.

    Half precision is computed and returned in float32: squares of float16 overflow from a norm of 256 on, and cosines
    in bfloat16 have only two or three digits.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    working = rows if rows.dtype == torch.float64 else rows.float()
    norms = torch.linalg.vector_norm(working, dim=-1, keepdim=True)
    return working / torch.where(norms > 0, norms, torch.inf)


def tangent_part(points: Float[Tensor, "n d"], vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Compute `v - <p, v> p`, each vector without its part along the unit vector of the same row.

    >>> tangent_part(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 3.0]]))
    tensor([[0., 3.]])
    """
    return vectors - (points * vectors).sum(-1, keepdim=True) * points


def geodesic(points: Float[Tensor, "n d"], tangents: Float[Tensor, "n d"], time: float) -> Float[Tensor, "n d"]:
    """Follow the great circles `cos(t |v|) p + sin(t |v|) v / |v|` from unit rows p with velocities v.

    >>> quarter = torch.tensor([[0.0, torch.pi / 2]])
    >>> geodesic(torch.tensor([[1.0, 0.0]]), quarter, 1.0).abs().round()
    tensor([[0., 1.]])
    """
    speeds = torch.linalg.vector_norm(tangents, dim=-1, keepdim=True)
    return torch.cos(time * speeds) * points + torch.sin(time * speeds) * unit_rows(tangents)
