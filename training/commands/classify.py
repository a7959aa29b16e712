"""`deep-lora classify`: image classification with an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.data import load_splits
from training.job import Job, take_hub_options
from training.models.loading import load_processor
from training.runner import run_job
from training.settings.adapter import AdapterArguments
from training.settings.common import COMMON, HeadArguments, ModelArguments, RunArguments
from training.settings.data import ImageDataArguments
from training.settings.parsing import option, parse
from training.tasks.image_classification import image_classification, image_columns, label_column
from training.tasks.labels import row_classes

DESCRIPTION = """Fine-tune an image classifier with an adapter, on a folder of images or any data set.

  deep-lora classify --model google/vit-base-patch16-224-in21k --dataset pictures
  deep-lora classify --model google/vit-base-patch16-224-in21k --dataset cifar10 --image_column img --normalized_head

A folder of images has a folder for each class, or train, validation and test folders with one for each class. A
convolutional model needs the names of layers, such as --target_modules convolution."""
SHOWN = (
    "model", "dataset", "image_column", "label_column", "validation_data", "metrics", "skip_unreadable", *COMMON,
    "balance_classes",
)  # fmt: skip


@dataclass
class ClassifierRun(RunArguments):
    """As `RunArguments`, with a folder of its own."""

    output_dir: str | None = option("runs/classify", "Folder for everything that is written.")


TYPES = (ModelArguments, AdapterArguments, ImageDataArguments, HeadArguments, ClassifierRun)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    run_job(build_job(*parse(TYPES, words, command="classify", description=DESCRIPTION, common=SHOWN)))
    return 0


def build_job(
    model: ModelArguments, adapter: AdapterArguments, data: ImageDataArguments, head: HeadArguments, run: RunArguments
) -> Job:
    """Build the job that the arguments describe, with its data loaded and checked.

    Raises:
        UsageError: the data do not fit the arguments, or the model has no image processor.
    """
    push, token = take_hub_options(run)
    run.remove_unused_columns = False  # the columns exist only once they are transformed
    processor = load_processor(model, images=True, token=token)
    splits = load_splits(data, image_columns(data), classes=row_classes(label_column(data)), images=True)
    task = image_classification(splits, data, run.metric_source)
    return Job(
        model=model, adapter=adapter, data=data, run=run, task=task, processor=processor, command="classify",
        head=head, push=push, token=token,
    )  # fmt: skip
