"""`Centering`: subtract the mean of each modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from modality.rows import as_rows, unit_rows

MEAN, MAP = "mean.", "map."


@dataclass(frozen=True)
class Centering:
    """Subtract each modality's mean from its normalized features, and normalize again.

        c_m(h) = (h / |h| - mean_m) / |h / |h| - mean_m|

    In a pool of images and texts a text query finds texts first, whatever they show, because its own modality is
    nearer. Centering removes this preference; it needs no training and no pairs.

        centering = Centering.fit({"image": train_images, "text": train_texts})
        images = centering.apply("image", images)

    Attributes:
        means: of each modality's normalized features, (d,), in float64.

    Source: Li et al., arXiv:2507.19054 (GR-CLIP, mixed-modality search); Liang et al., NeurIPS 2022 (the gap as a
    constant vector).

    >>> centering = Centering.fit({"image": [[1.0, 0.0], [0.0, 1.0]], "text": [[0.0, -1.0], [-1.0, 0.0]]})
    >>> centering.apply("image", [[2.0, 0.0]])
    tensor([[ 0.7071, -0.7071]])
    """

    means: dict[str, Float[Tensor, " d"]]

    @classmethod
    def fit(cls, features: Mapping[str, Any]) -> Centering:
        """Compute the means of features, ideally of other data than those to be centered.

        Args:
            features: name of the modality -> its features (n, d), at least two rows, any number of modalities.

        Raises:
            TypeError, ValueError: for fewer than two modalities, or features that are not finite matrices.
        """
        return cls({name: rows.mean(0) for name, rows in checked(features).items()})

    def apply(self, modality: str, rows: Any) -> Float[Tensor, "n d"]:
        """Return the aligned, normalized features of one modality, in float32 or better; gradients reach the rows.

        Args:
            modality: one of the names of the fit.
            rows: (n, d), as tensors, arrays of NumPy or lists.

        Raises:
            TypeError, ValueError: for another modality or width, or for features that are not a finite matrix.
        """
        if not isinstance(modality, str) or modality not in self.means:
            raise ValueError(f"the alignment was fitted for {list(self.means)}, and not for {_shown(modality)}")
        found = unit_rows(checked_rows(modality, rows))
        mean = self.means[modality]
        if found.shape[1] != len(mean):
            raise ValueError(f"{modality!r} was fitted with {len(mean)} features, got {found.shape[1]}")
        return unit_rows(self._moved(modality, found - mean.to(found)))

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored, by name."""
        return {f"{MEAN}{name}": mean for name, mean in self.means.items()}

    def save(self, path: str | Path) -> None:
        """Write the alignment to one safetensors file, which `load_alignment` reads; missing folders are made."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors().items()}
        save_file(tensors, str(path), metadata={"alignment": type(self).__name__})

    def _moved(self, modality: str, centered: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return centered


def _shown(name: Any) -> str:
    return repr(name) if isinstance(name, str) else f"a {type(name).__name__}; the name comes first"


def checked(features: Mapping[str, Any]) -> dict[str, Float[Tensor, "n d"]]:
    """Return the normalized features of each modality, in float64.

    Raises:
        TypeError, ValueError: as `Centering.fit`.
    """
    if not isinstance(features, Mapping) or len(features) < 2 or not all(isinstance(name, str) for name in features):
        raise TypeError(
            "an alignment is fitted to at least two modalities by name, such as {'image': x, 'text': y}, got "
            f"{list(features) if isinstance(features, Mapping) else type(features).__name__}"
        )
    found = {name: unit_rows(checked_rows(name, rows).detach().double()) for name, rows in features.items()}
    for name, rows in found.items():
        if len(rows) < 2:
            raise ValueError(f"a mean needs rows: {name!r} has {len(rows)}, and at least two are needed")
    return found


def checked_rows(name: str, rows: Any) -> Float[Tensor, "n d"]:
    """Return finite features as a matrix.

    Raises:
        TypeError, ValueError: if they are not.
    """
    found = as_rows(rows)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() != 2:
        kind = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(
            f"features of {name!r} must be a floating-point matrix (n, d), got {kind}; convert integers with "
            "`.astype(float)`, and pass one row as [row]"
        )
    if not found.isfinite().all():
        raise ValueError(f"features of {name!r} hold NaN or inf; look at the model's precision before this")
    return found
