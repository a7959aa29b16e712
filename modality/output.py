"""What contrastive models return."""

from __future__ import annotations

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


FIRST_MODALITY = ("x_embeds", "image_embeds", "audio_embeds", "video_embeds")
SECOND_MODALITY = ("y_embeds", "text_embeds")


def paired_embeddings(output: Any) -> tuple[Tensor, Tensor] | None:
    """Find the embeddings of both modalities in the output of a contrastive model; None if there are none.

    >>> paired_embeddings(ContrastiveOutput(x_embeds=1, y_embeds=2))
    (1, 2)
    """
    first = next((found for name in FIRST_MODALITY if (found := getattr(output, name, None)) is not None), None)
    second = next((found for name in SECOND_MODALITY if (found := getattr(output, name, None)) is not None), None)
    return None if first is None or second is None else (first, second)
