"""What contrastive models return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class ContrastiveOutput(ModelOutput):
    """Loss, logits and embeddings of a batch of pairs.

    One convention for all models: x is the first modality and y the second; with CLIP-like models x is the image (or
    sound) and y the text. Attributes with the names of transformers return the same tensors.

    Args:
        loss: over the batch; with several ranks this rank's share, whose mean over ranks is the loss.
        logits: `inverse_temperature * x y^T` (+ bias) of this rank's rows, (n, n); None in chunked training, which
            avoids n x n matrices.
        x_embeds, y_embeds: (n, d), normalized, before any swap.

    >>> ContrastiveOutput(logits=None).keys()
    odict_keys([])
    """

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "n n"] | None = None
    x_embeds: Float[Tensor, "n d"] | None = None
    y_embeds: Float[Tensor, "n d"] | None = None

    @property
    def image_embeds(self) -> Float[Tensor, "n d"] | None:
        """`x_embeds`."""
        return self.x_embeds

    @property
    def text_embeds(self) -> Float[Tensor, "n d"] | None:
        """`y_embeds`."""
        return self.y_embeds

    @property
    def logits_per_image(self) -> Float[Tensor, "n n"] | None:
        """`logits`."""
        return self.logits

    @property
    def logits_per_text(self) -> Float[Tensor, "n n"] | None:
        """`logits` transposed."""
        return None if self.logits is None else self.logits.mT


FIRST_MODALITY = (
    "x_embeds", "image_embeds", "audio_embeds", "video_embeds", "speech_embeds", "image_features", "audio_features",
    "video_features",
)  # fmt: skip
SECOND_MODALITY = ("y_embeds", "text_embeds", "text_features")


def paired_embeddings(output: Any) -> tuple[Tensor, Tensor] | None:
    """Find the embeddings of both modalities in the output of a contrastive model; None if there are none.

    They have one of the names above, in an object or a mapping, or are the first two of a tuple whose other members are
    numbers, as the models of open_clip return.

    >>> paired_embeddings(ContrastiveOutput(x_embeds=1, y_embeds=2))
    (1, 2)
    """
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return _leading_pair(output)
    first, second = _first_of(output, FIRST_MODALITY), _first_of(output, SECOND_MODALITY)
    return None if first is None or second is None else (first, second)


def are_paired(x: Tensor, y: Tensor) -> bool:
    """Tell whether embeddings are one row for each pair from each modality.

    >>> import torch
    >>> are_paired(torch.ones(2, 3), torch.ones(2, 3)), are_paired(torch.ones(2, 5, 3), torch.ones(2, 3))
    (True, False)
    """
    return x.dim() == 2 and x.shape == y.shape


def _first_of(output: Any, names: tuple[str, ...]) -> Any:
    found = (output.get(name) if isinstance(output, Mapping) else getattr(output, name, None) for name in names)
    return next((value for value in found if value is not None), None)


def _leading_pair(output: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    """Take two matrices that only numbers follow; a tuple of logits and embeddings has more matrices."""
    if len(output) < 2 or not all(isinstance(value, Tensor) and value.dim() == 2 for value in output[:2]):
        return None
    rest = [value for value in output[2:] if isinstance(value, Tensor) and value.numel() != 1]
    return None if rest else (output[0], output[1])
