"""Load alignments from files."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from modality.alignment.centering import MAP, MEAN, Centering
from modality.alignment.linear import LinearAlignment


def load_alignment(path: str | Path) -> Centering:
    """Read an alignment that `save` wrote, of either kind.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not an alignment.

    >>> import tempfile
    >>> fitted = Centering.fit({"image": [[1.0, 0.0], [0.0, 1.0]], "text": [[0.0, -1.0], [-1.0, 0.0]]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fitted.save(f"{folder}/centers.safetensors")
    ...     load_alignment(f"{folder}/centers.safetensors").means["text"].tolist()
    [-0.5, -0.5]
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; `Centering.fit(...).save(path)` writes such a file")
    try:
        with safe_open(str(path), framework="pt") as file:
            kind = (file.metadata() or {}).get("alignment")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}); `Centering.fit(...).save(path)` writes one"
        ) from None
    return from_tensors(kind, tensors, str(path))


def from_tensors(kind: str | None, tensors: dict[str, Tensor], source: str) -> Centering:
    """Make the alignment of a kind from what is stored.

    Raises:
        ValueError: for another kind, or tensors that do not fit it.
    """
    means = {name.removeprefix(MEAN): tensor for name, tensor in tensors.items() if name.startswith(MEAN)}
    maps = {name.removeprefix(MAP): tensor for name, tensor in tensors.items() if name.startswith(MAP)}
    fits = len(means) >= 2 and all(mean.dim() == 1 for mean in means.values())
    fits = fits and all(name in means and len(matrix) == len(means[name]) for name, matrix in maps.items())
    if kind not in ("Centering", "LinearAlignment") or not fits or bool(maps) != (kind == "LinearAlignment"):
        raise ValueError(
            f"{source} holds {sorted(tensors)[:4]} as {kind!r}, which is not an alignment; "
            "`Centering.fit(...).save(path)` writes one"
        )
    return LinearAlignment(means, maps) if maps else Centering(means)
