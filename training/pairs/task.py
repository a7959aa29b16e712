"""Pairs as a `Task`: checked columns, images that are there, duplicates, and the metrics."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn
from transformers import EvalPrediction, TrainerCallback

from modality import PairStatistics, TemperatureScheduleCallback, modality_gap
from training.data import Splits
from training.errors import UsageError
from training.job import Job, Task
from training.pairs.arguments import MethodArguments, PairDataArguments
from training.pairs.captions import caption_columns, one_caption_a_row, recall_of_entries
from training.pairs.method import make_schedule, swapping
from training.pairs.models import build_contrastive
from training.pairs.processor import ENTRIES, IDS, X, Y
from training.pairs.trainer import ContrastiveTrainer, SwapCountCallback
from training.reading.kinds import picture, text, written
from training.reading.lists import captions, captions_if_any
from training.reading.pictures import readable
from training.reading.tables import Wanted

KS = (1, 5)
_PART = 256  # pictures whose bytes are in memory at a time
SCORES_AGAINST_STEPS = (
    ("recall@1", "recall@5"),
    ("gap", "paired_distance", "distribution_gap"),
    ("tau",),
)


def pair_columns(data: PairDataArguments) -> list[Wanted]:
    """Return the columns of the pairs, and the one that says what a pair shows.

    Raises:
        UsageError: both sides are the same column.
    """
    texts = [Wanted(data.text_column, captions, "--text_column")]
    if data.text_columns:
        texts = [Wanted(name, captions_if_any, "--text_columns") for name in data.text_columns]
    first = Wanted(data.image_column, picture, "--image_column")
    if data.second_text_column:
        texts = [Wanted(data.text_column, text, "--text_column")]
        first = Wanted(data.second_text_column, text, "--second_text_column")
    if first.name in [one.name for one in texts]:
        raise UsageError(f"both sides of the pairs are column {first.name!r}; name two columns")
    sides = [*texts, first] if data.second_text_column else [first, *texts]
    if data.label_column is None or data.label_column in [one.name for one in sides]:
        return sides
    return [*sides, Wanted(data.label_column, written, "--label_column")]


def pair_task(splits: Splits, data: PairDataArguments, method: MethodArguments, *, seed: int, batch: int) -> Task:
    """Build the task of images with texts, or of texts with texts.

    Args:
        splits: as loaded.
        data: names of the columns.
        method: loss, temperature and swaps.
        seed: of the swaps.
        batch: pairs that are contrasted in a step.

    Raises:
        UsageError: images cannot be read, or there is nothing to contrast with.
    """
    columns = _sides(data)
    if not data.second_text_column:
        splits = one_caption_a_row(splits, data)
    _require_several(splits, batch)
    if not data.second_text_column:
        splits = {
            name: readable(split, data.image_column, name, data.skip_unreadable) for name, split in splits.items()
        }
        _require_several(splits, batch)
    names = ("text", "second_text") if data.second_text_column else ("image", "text")
    return Task(
        name="text_pairs" if data.second_text_column else "image_text_pairs",
        auto_class="AutoModel",
        pipeline="sentence-similarity" if data.second_text_column else "zero-shot-image-classification",
        peft_task=None,
        splits=splits,
        model_settings={},
        encode=partial(_encode, columns=columns, label=data.label_column),
        build_model=build_contrastive,
        trainer_class=partial(ContrastiveTrainer, temperature_rate=method.temperature_rate),
        callbacks=_callbacks,
        collate=lambda processor, model: swapping(processor, method, seed),
        score=partial(score_pairs, names=names),
        main_metric="recall@1",
        scores=("tau", *_names_of_scores(names)),
        panels=SCORES_AGAINST_STEPS,
    )


def _sides(data: PairDataArguments) -> list[str]:
    """Return the columns of both sides of the pairs, once each caption has a row."""
    if data.second_text_column:
        return [data.text_column, data.second_text_column]
    return [data.image_column, caption_columns(data)[0]]


def first_entries(split: Dataset, data: PairDataArguments) -> list[str]:
    """Return what tells the first entries of pairs apart: several captions of one picture are held out together."""
    return _entries(split, _sides(data)[0])


def _entries(split: Dataset, column: str) -> list[str]:
    """Return a text for each entry of a column, with single spaces; of pictures, their path or a digest."""
    found = []
    for part in split.select_columns([column]).iter(batch_size=_PART):
        for value in part[column]:
            if isinstance(value, dict):
                held = value["bytes"]
                value = os.path.normpath(value["path"]) if held is None else hashlib.sha256(held).hexdigest()
            found.append(" ".join(str(value).split()))
    return found


def numbers_of(split: Dataset, columns: Sequence[str]) -> np.ndarray:
    """Number what pairs show: pairs have one number if they share an entry of a column, or each with a third one.

    A picture with several captions, a caption of several pictures, and whatever they are linked by, is one thing.
    """
    count = len(split)
    keys = [np.unique(np.asarray(_entries(split, name), dtype=object), return_inverse=True)[1] for name in columns]
    ends = np.concatenate([count + number * count + key for number, key in enumerate(keys)])
    rows = np.tile(np.arange(count), len(keys))
    size = count * (1 + len(keys))
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, ends)), shape=(size, size))
    return connected_components(links, directed=False)[1][:count].astype(np.int64)


def score_pairs(prediction: EvalPrediction, names: tuple[str, str] = ("x", "y")) -> dict[str, float]:
    """Return recall in both directions over all of the data as one pool, their mean, and the modality gap.

    Args:
        prediction: embeddings of both modalities; and of each pair its id, and its entries as `recall_of_entries` has
            them: (pairs, 4).
        names: of the modalities, for the names of the metrics.
    """
    first, second = (torch.as_tensor(rows) for rows in prediction.predictions)
    statistics = PairStatistics(first.shape[1])
    statistics.update(first, second)
    recall = recall_of_entries(first, second, np.asarray(prediction.label_ids)[:, 1:], KS)
    means = {f"recall@{k}": (recall[f"x_to_y_recall@{k}"] + recall[f"y_to_x_recall@{k}"]) / 2 for k in KS}
    forth, back = f"{names[0]}_to_{names[1]}", f"{names[1]}_to_{names[0]}"
    named = {key.replace("x_to_y", forth).replace("y_to_x", back): value for key, value in recall.items()}
    return means | named | modality_gap(statistics)


def _names_of_scores(names: tuple[str, str]) -> list[str]:
    pairs = np.eye(4, dtype=np.float32)
    return list(score_pairs(EvalPrediction(predictions=(pairs, pairs), label_ids=np.indices((4, 4))[0]), names))


def _callbacks(job: Job, model: nn.Module) -> list[TrainerCallback]:
    schedule = make_schedule(job.method)
    following = [] if schedule is None else [TemperatureScheduleCallback(schedule, parameter="temperature")]
    return [SwapCountCallback(), *following]


def _encode(splits: Splits, processor: Any, *, columns: list[str], label: str | None) -> Splits:
    """Rename the columns as the collator knows them; texts and images are encoded batch by batch.

    Raises:
        UsageError: all pairs of a split show the same.
    """
    encoded = {}
    for name, split in splits.items():
        named = split.select_columns(columns).rename_columns(dict(zip(columns, (X, Y), strict=True)))
        numbers = numbers_of(split, [label] if label else columns)
        if len(split) > 1 and not np.ptp(numbers):
            linked = f"all have the same {label!r}" if label else "they are linked by pictures and texts in common"
            raise UsageError(
                f"the {len(split)} pairs of the {name} data all show the same thing ({linked}), so nothing can be "
                "contrasted; pass other data, or --label_column with what each pair shows"
            )
        encoded[name] = named.add_column(IDS, numbers)
        if name != "train":
            sides = [np.unique(_entries(split, column), return_inverse=True)[1] for column in columns]
            shown = numbers_of(split, [label]) if label else np.arange(len(split))
            encoded[name] = encoded[name].add_column(ENTRIES, np.stack([*sides, shown], 1).tolist())
    return encoded


def _require_several(splits: Splits, global_batch: int) -> None:
    for name, split in splits.items():
        if len(split) < 2:
            more = "; a larger --validation_fraction holds out more" if name == "validation" else ""
            raise UsageError(
                f"the {name} data hold {len(split)} pair, with nothing to contrast it with; at least 2 are needed{more}"
            )
    if global_batch < 2:
        raise UsageError(
            "a step of 1 pair has nothing to contrast it with; pass a larger --per_device_train_batch_size "
            "(accumulated batches do not see each other)"
        )
