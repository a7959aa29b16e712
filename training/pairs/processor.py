"""Rows of texts and images as batches that a contrastive model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from training.errors import UsageError
from training.models.loading import load_processor
from training.pairs.arguments import PairDataArguments, PairModelArguments
from training.reading.pictures import decode

# Columns of encoded data; the last one, for evaluation: picture and text of a pair by their numbers, and what it shows.
X, Y, IDS, ENTRIES = "x", "y", "ids", "entries"
TOWERS = ("x_tower", "y_tower")


class TextEncoder(NamedTuple):
    """Texts -> token numbers and masks, of as many tokens as the longest text, or always of `max_length`."""

    tokenizer: Any
    max_length: int
    padding: bool | str

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(
            list(texts), padding=self.padding, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return dict(encoded)

    def save_pretrained(self, folder: str) -> None:
        self.tokenizer.save_pretrained(folder)


class ImageEncoder(NamedTuple):
    """Stored images -> what an image processor makes of them."""

    image_processor: Any

    def __call__(self, images: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return dict(self.image_processor([decode(image) for image in images], return_tensors="pt"))

    def save_pretrained(self, folder: str) -> None:
        self.image_processor.save_pretrained(folder)


@dataclass(frozen=True)
class PairProcessor:
    """A collator of pairs, and what is saved beside the adapters.

    Attributes:
        x, y: encoders of the first modality (images, or first texts) and of the second (texts).
        joint: one model takes both; otherwise the batch has an entry for each of two towers.
    """

    x: TextEncoder | ImageEncoder
    y: TextEncoder
    joint: bool

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        x, y = self.x([row[X] for row in rows]), self.y([row[Y] for row in rows])
        numbers = {name: torch.tensor([row[name] for row in rows]) for name in (IDS, ENTRIES) if name in rows[0]}
        return {**x, **y, **numbers} if self.joint else {X: x, Y: y, **numbers}

    def save_pretrained(self, folder: str) -> None:
        """Save tokenizer and image processor: of one model side by side, of two towers in a folder each."""
        for name, encoder in zip(TOWERS, (self.x, self.y), strict=True):
            place = Path(folder) if self.joint else Path(folder) / name
            place.mkdir(parents=True, exist_ok=True)
            encoder.save_pretrained(str(place))


def load_pair_processor(model: PairModelArguments, data: PairDataArguments, token: str | None = None) -> PairProcessor:
    """Load the encoders that belong to the models.

    Raises:
        UsageError: the models do not go together with the data, or have no tokenizer or image processor.
    """
    x_name, y_name = tower_names(model, data)
    y = _text_encoder(replace(model, model=y_name), data, token)
    if data.second_text_column:
        return PairProcessor(_text_encoder(replace(model, model=x_name), data, token), y, joint=False)
    images = ImageEncoder(load_processor(replace(model, model=x_name), images=True, token=token))
    return PairProcessor(images, y, joint=model.model is not None)


def tower_names(model: PairModelArguments, data: PairDataArguments) -> tuple[str, str]:
    """Return the models of the first and of the second modality; of one model for both, its name twice.

    Raises:
        UsageError: there is none, one too many, or one of another modality.
    """
    if data.second_text_column:
        if model.text_model is None or model.model or model.image_model or model.freeze_image:
            raise UsageError(
                "pairs of texts need --text_model, and --second_text_model if it is another one; leave --model, "
                "--image_model and --freeze_image out (or --second_text_column, for images with texts)"
            )
        return model.text_model, model.second_text_model or model.text_model
    if model.second_text_model or model.freeze_second_text:
        raise UsageError("--second_text_model and --freeze_second_text are for pairs of texts: --second_text_column")
    if model.model is not None:
        if model.text_model or model.image_model:
            raise UsageError("--model takes images and texts; leave --text_model and --image_model out, or --model")
        return model.model, model.model
    if model.text_model is None or model.image_model is None:
        raise UsageError(
            "no model for pairs was given; pass --model with a CLIP-like one, --text_model with --image_model, or for "
            "pairs of texts --text_model with --second_text_column"
        )
    return model.image_model, model.text_model


def _text_encoder(model: PairModelArguments, data: PairDataArguments, token: str | None) -> TextEncoder:
    tokenizer = load_processor(model, token=token)
    config = transformers.AutoConfig.from_pretrained(
        model.model, token=token, trust_remote_code=model.trust_remote_code, revision=model.revision or "main"
    )
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or 128
    longest = min(positions, tokenizer.model_max_length)
    if data.max_length is not None and data.max_length > longest:
        raise UsageError(f"--max_length got {data.max_length}; {model.model} takes at most {longest} tokens")
    # SigLIP reads the last place and has no mask: it was trained on texts padded to one length.
    padding = "max_length" if str(text.model_type).startswith("siglip") else True
    return TextEncoder(tokenizer, data.max_length or min(128, longest), padding)
