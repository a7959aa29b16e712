"""A class for each image."""

from __future__ import annotations

from typing import Any

import torch

from training.data import Splits
from training.job import Task
from training.reading.kinds import class_name, picture
from training.reading.pictures import decode, readable
from training.reading.tables import Wanted
from training.settings.data import ImageDataArguments
from training.tasks.base import adapter_task, classes_of
from training.tasks.labels import class_counts, label_settings, with_classes
from training.tasks.metrics import class_scorer


def image_columns(data: ImageDataArguments) -> list[Wanted]:
    """Return the columns of the task."""
    return [
        Wanted(data.image_column, picture, "--image_column"),
        Wanted(label_column(data), class_name, "--label_column"),
    ]


def label_column(data: ImageDataArguments) -> str:
    """Return the column with the classes."""
    return data.label_column or "label"


def image_classification(splits: Splits, data: ImageDataArguments, metric_source: str = "local") -> Task:
    """Build the task of one of several classes for each image.

    Raises:
        UsageError: there is one class only, a split has classes that the training data do not have, or an image cannot
            be read.
    """
    column = label_column(data)
    splits = with_classes(splits, column)
    splits = {name: readable(split, data.image_column, name, data.skip_unreadable) for name, split in splits.items()}
    names = splits["train"].features[column].names
    metrics = data.metrics or ["accuracy", "f1_macro"]

    def encode(splits: Splits, processor: Any) -> Splits:
        def transform(rows: dict[str, list]) -> dict[str, list]:
            images = [decode(image) for image in rows[data.image_column]]
            pixels = processor(images, return_tensors="pt")["pixel_values"]
            return {"pixel_values": list(pixels), "labels": rows[column]}

        return {name: split.with_transform(transform) for name, split in splits.items()}  # decoded when needed

    return adapter_task(
        name="image_classification",
        auto_class="AutoModelForImageClassification",
        pipeline="image-classification",
        peft_task=None,
        splits=splits,
        model_settings=label_settings(names),
        encode=encode,
        collate=lambda processor, model: stack_images,
        score=class_scorer(metrics, metric_source, classes=len(names)),
        main_metric=metrics[0],
        scores=tuple(metrics),
        classes_of=classes_of,
        counts=class_counts(splits, column),
    )


def stack_images(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack images of one size to a batch."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }
