"""A class for each image."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Image
from transformers import EvalPrediction

from training.data import Splits, require_columns
from training.errors import UsageError
from training.job import Task
from training.settings.data import ImageDataArguments
from training.tasks.base import adapter_task, logits_of
from training.tasks.labels import class_names, display_names, label_settings, without_hidden_test
from training.tasks.metrics import scorer


def image_classification(splits: Splits, data: ImageDataArguments, metric_source: str = "local") -> Task:
    """Build the task of one of several classes for each image.

    Raises:
        UsageError: for missing columns, a column that holds no images, or labels that are not classes.
    """
    column = data.label_column or "label"
    require_columns(splits, [column], "choose with --image_column and --label_column")
    for name, split in splits.items():
        held = split.features.get(data.image_column)
        if not isinstance(held, Image):
            raise UsageError(f"column {data.image_column!r} of the {name} data holds {held}; it must hold images")
    splits = without_hidden_test(splits, column)
    classes = class_names(splits, column)
    numbers = {value: number for number, value in enumerate(classes)}
    metrics = data.metrics or ["accuracy", "f1_macro"]
    score = scorer(metrics, metric_source, classes=len(classes))

    def score_classes(prediction: EvalPrediction) -> dict[str, float]:
        return score(logits_of(prediction).argmax(-1), prediction.label_ids)

    def encode(splits: Splits, processor: Any) -> Splits:
        def transform(rows: dict[str, list]) -> dict[str, list]:
            images = [image.convert("RGB") for image in rows[data.image_column]]
            pixels = processor(images, return_tensors="pt")["pixel_values"]
            return {"pixel_values": list(pixels), "labels": [numbers[value] for value in rows[column]]}

        return {name: split.with_transform(transform) for name, split in splits.items()}  # decoded when needed

    return adapter_task(
        name="image_classification",
        auto_class="AutoModelForImageClassification",
        pipeline="image-classification",
        peft_task=None,
        splits=splits,
        model_settings=label_settings(display_names(splits["train"], column, classes)),
        encode=encode,
        collate=lambda processor, model: stack_images,
        score=score_classes,
        main_metric=metrics[0],
    )


def stack_images(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack images of one size to a batch."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }
