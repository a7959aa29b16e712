"""`LinearAlignment`: one linear map that takes a modality onto another, after centering."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation_hooks import check_same_order
from modality.alignment.centering import MAP, Centering, checked
from modality.rows import products


@dataclass(frozen=True)
class LinearAlignment(Centering):
    """Center each modality, and map all but one onto that one by a matrix fitted to pairs.

        f_m(h) = u / |u|,   u = (h / |h| - mean_m) A_m;   A = I for the modality that the others are mapped onto

    Centering closes the distance between the means; this also turns the modalities onto each other (the
    `distribution_gap` of `modality_gap`). With few pairs for the number of features the map fits their noise: compare
    with `Centering` on held-out pairs.

    Attributes:
        means: as in `Centering`.
        maps: A_m (d_m, d), of every modality but one, in float64.

    Source: Schonemann, 1966 (the orthogonal map); Hoerl and Kennard, 1970 (the ridge map).

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> alignment = LinearAlignment.fit({"image": x @ torch.eye(3)[[1, 2, 0]], "text": x}, onto="text")
    >>> alignment.maps["image"].round().abs().int().tolist()
    [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    """

    maps: dict[str, Float[Tensor, "d_m d"]]

    @classmethod
    def fit(  # type: ignore[override]
        cls, features: Mapping[str, Any], onto: str, *, penalty: float | None = None
    ) -> LinearAlignment:
        """Fit the maps to pairs: row i of every modality shows the same thing.

        Args:
            features: name of the modality -> its features (n, d_m), as many rows of each; widths may differ.
            onto: the modality that stays.
            penalty: None for the orthogonal map, which keeps the distances within a modality; or the ridge penalty
                relative to the mean squared singular value, such as 0.1, for the map of least squared error.

        Raises:
            TypeError, ValueError: as `Centering.fit`, for an unknown `onto`, for numbers of rows that differ, or for a
                penalty that is not positive.
        """
        rows = checked(features)
        for one, other in combinations(features, 2):
            check_same_order(**{one: features[one], other: features[other]})
        if onto not in rows:
            raise ValueError(f"`onto` must be one of {list(rows)}, got {onto!r}")
        if len({len(found) for found in rows.values()}) > 1:
            raise ValueError(
                "a map is fitted to pairs, as many rows of each modality, got "
                f"{ {name: len(found) for name, found in rows.items()} }; repeat a row that has several counterparts"
            )
        if penalty is not None and (isinstance(penalty, bool) or not 0 < penalty < math.inf):
            raise ValueError(f"`penalty` must be positive, or None for an orthogonal map, got {penalty!r}")
        means = {name: found.mean(0) for name, found in rows.items()}
        target = rows[onto] - means[onto]
        maps = {
            name: _orthogonal(found - means[name], target) if penalty is None else
            _ridge(found - means[name], target, penalty)
            for name, found in rows.items() if name != onto
        }  # fmt: skip
        return cls(means, maps)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {f"{MAP}{name}": matrix for name, matrix in self.maps.items()}

    def _moved(self, modality: str, centered: Float[Tensor, "n d_m"]) -> Float[Tensor, "n d"]:
        return products(centered, self.maps[modality].to(centered)) if modality in self.maps else centered


def _orthogonal(x: Float[Tensor, "n d_m"], y: Float[Tensor, "n d"]) -> Float[Tensor, "d_m d"]:
    """Minimize `|x A - y|` over A with orthonormal columns or rows."""
    left, _, right = torch.linalg.svd(x.mT @ y, full_matrices=False)
    return (left @ right).contiguous()


def _ridge(x: Float[Tensor, "n d_m"], y: Float[Tensor, "n d"], penalty: float) -> Float[Tensor, "d_m d"]:
    """Minimize `|x A - y|^2 + l |A|^2`, with l the penalty times the mean eigenvalue of `x^T x`."""
    gram = x.mT @ x
    shift = penalty * gram.diagonal().mean()
    shifted = gram + shift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(shifted, x.mT @ y).contiguous()
