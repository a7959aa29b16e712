"""Predictions of a model for the rows of a data set, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from training.models.ends import require_ends
from training.reading.pictures import decode
from training.tasks.base import encode_texts
from training.tasks.continuation import encode_prompts
from training.tasks.words import encode_words

Row = dict[str, Any]  # the new columns of a row
_Encode = Callable[[Dataset], dict[str, Tensor]]


def classify_texts(
    model: Any, tokenizer: Any, data: Dataset, columns: Sequence[str], length: int, batch: int
) -> Iterator[tuple[Tensor, int]]:
    """Yield the logits of each row of texts, or pairs of texts, and how many of its tokens are cut off."""
    for part in _parts(data, batch):
        encoded, lost = encode_texts(tokenizer, *(part[name] for name in columns), max_length=length)
        require_ends(model, encoded["input_ids"], tokenizer.eos_token, "texts")
        yield from zip(_logits(model, _padded(tokenizer, encoded)), lost, strict=True)


def classify_pictures(
    model: Any, processor: Any, data: Dataset, column: str, batch: int
) -> Iterator[tuple[Tensor, int]]:
    """Yield the logits of each picture."""
    for part in _parts(data, batch):
        pixels = processor([decode(image) for image in part[column]], return_tensors="pt")["pixel_values"]
        yield from ((logits, 0) for logits in _logits(model, {"pixel_values": pixels}))


def tag_words(
    model: Any, tokenizer: Any, data: Dataset, column: str, length: int, batch: int
) -> Iterator[tuple[list[Tensor | None], int]]:
    """Yield for each row the logits of its words, None for words without a token, and how many are cut off."""
    for part in _parts(data, batch):
        encoded, begun = encode_words(part[column], tokenizer, length)
        for words, places, logits in zip(part[column], begun, _logits(model, _padded(tokenizer, encoded)), strict=True):
            found: list[Tensor | None] = [None] * len(words)
            for place, word in enumerate(places):
                if word is not None:
                    found[word] = logits[place]
            yield found, len(words) - 1 - max((word for word in places if word is not None), default=-1)


def write_texts(
    model: Any, tokenizer: Any, data: Dataset, column: str, length: int, batch: int, **settings: Any
) -> Iterator[tuple[str, int]]:
    """Yield the text that the model writes for each row, and how many tokens of the row are cut off.

    Args:
        model: of the task causal_lm, which continues a text, or seq2seq.
        tokenizer: of the model.
        data: with a column of texts.
        column: its name.
        length: tokens after which a text is cut off.
        batch: rows at a time.
        **settings: of `model.generate`.
    """
    begins = bool(model.config.is_encoder_decoder)
    tokenizer.padding_side = "right" if begins else "left"
    for part in _parts(data, batch):
        if begins:
            encoded, lost = encode_texts(tokenizer, part[column], max_length=length)
        else:
            encoded, lost = encode_prompts(part[column], tokenizer, length)
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        held = {name: value.to(model.device) for name, value in _padded(tokenizer, inputs).items()}
        with torch.inference_mode():
            tokens = model.generate(**held, do_sample=False, pad_token_id=tokenizer.pad_token_id, **settings)
        new = tokens[:, 1:] if begins else tokens[:, held["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        yield from zip((text.strip() for text in texts), lost, strict=True)


def _parts(data: Dataset, batch: int) -> Iterator[dict[str, list]]:
    with tqdm(total=len(data), desc="predicting", disable=len(data) < 10 * batch) as bar:
        for part in data.iter(batch_size=batch):
            yield part
            bar.update(len(next(iter(part.values()))))


def _padded(tokenizer: Any, encoded: dict[str, list]) -> dict[str, Tensor]:
    return dict(tokenizer.pad(encoded, return_tensors="pt"))


@torch.inference_mode()
def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    output = model(**{name: value.to(model.device) for name, value in inputs.items()})
    return output.logits.float().cpu()
