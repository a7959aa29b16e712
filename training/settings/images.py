"""The options of image data."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.settings.common import DataArguments, option


@dataclass
class ImageDataArguments(DataArguments):
    """Images with a class each: a folder with a folder for each class, or a data set."""

    image_column: str = option("image", "Column with the image.")
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Metrics by name, the most important first; otherwise accuracy and f1_macro."}
    )
