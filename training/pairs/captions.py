"""Several captions in a row: each makes a pair, and recall counts any caption of a picture as right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, Value
from torch import Tensor

from modality import recall_at_k
from training.data import Splits
from training.errors import UsageError
from training.pairs.arguments import PairDataArguments
from training.reading.tables import without_bars


def caption_columns(data: PairDataArguments) -> list[str]:
    """Return the columns with the captions of a picture."""
    return data.text_columns or [data.text_column]


def one_caption_a_row(splits: Splits, data: PairDataArguments) -> Splits:
    """Return each split with a row for each caption, in their order, under the name of the first column.

    Raises:
        UsageError: a row has no caption.
    """
    columns = caption_columns(data)
    return {name: _one_caption_a_row(split, columns, data, name) for name, split in splits.items()}


def _one_caption_a_row(split: Dataset, columns: Sequence[str], data: PairDataArguments, name: str) -> Dataset:
    held = [[text for texts in row for text in texts] for row in zip(*(split[one] for one in columns), strict=True)]
    if empty := [row for row, texts in enumerate(held) if not texts]:
        shown = (split[empty[0]].get(data.image_column) or {}).get("path") or f"row {empty[0]}"
        raise UsageError(
            f"{len(empty)} of {len(held)} rows of the {name} data have no caption in {', '.join(columns)}, the first "
            f"is {shown}; fill or drop them"
        )
    rows = np.repeat(np.arange(len(held)), [len(texts) for texts in held])
    others = split.remove_columns(list(columns))
    if len(rows) > len(held):
        others = others.select(rows)
    texts = [text for texts in held for text in texts]
    with without_bars():
        return others.add_column(columns[0], texts, feature=Value("string"))


def recall_of_entries(x: Tensor, y: Tensor, entries: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Return recall in both directions, with each picture and each text once among queries and answers.

    A pool with a picture five times, once for each caption, would fill the first five places with one wrong picture.

    Args:
        x, y: embeddings of the pairs.
        entries: (pairs, 3): numbers of the picture, of the text, and of what the pair shows. A text is right for a
            picture if they are in pairs that show the same.
        ks: numbers of candidates.
    """
    pairs = pd.DataFrame(entries, columns=["x", "y", "shown"])
    first = {side: np.unique(pairs[side], return_index=True, return_inverse=True)[1:] for side in ("x", "y")}
    sides = {}
    for side, (_, numbers) in first.items():
        sides[side] = pd.DataFrame({side: numbers, "shown": pairs["shown"]}).drop_duplicates()
    features = [rows[torch.as_tensor(first[side][0])] for side, rows in (("x", x), ("y", y))]
    if all(held[side].is_unique for side, held in sides.items()):
        ids = [pairs["shown"].to_numpy()[first[side][0]] for side in ("x", "y")]
        return recall_at_k(features[0], features[1], ks, x_ids=torch.as_tensor(ids[0]), y_ids=torch.as_tensor(ids[1]))
    right = sides["x"].merge(sides["y"], on="shown")[["x", "y"]].drop_duplicates()
    return recall_at_k(features[0], features[1], ks, pairs=torch.as_tensor(right.to_numpy(copy=True)))
