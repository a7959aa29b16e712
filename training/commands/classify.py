"""`deep-lora classify`: image classification with an adapter."""

from __future__ import annotations

from collections.abc import Sequence

from training.data import load_splits
from training.job import Job, take_hub_options
from training.models.loading import load_processor
from training.runner import run_job
from training.settings.common import FEATURED, AdapterArguments, ModelArguments, RunArguments
from training.settings.heads import HeadArguments
from training.settings.images import ImageDataArguments
from training.settings.parsing import parse
from training.tasks.image_classification import image_classification

DESCRIPTION = """Fine-tunes an image classifier with an adapter, on a folder of images or any data set.

  deep-lora classify --model google/vit-base-patch16-224-in21k --dataset pictures
  deep-lora classify --model google/vit-base-patch16-224-in21k --dataset cifar10 --image_column img --normalized_head

A folder of images has a folder for each class in it, or train, validation and test folders with those inside. A model
of convolutions needs the names of layers, such as --target_modules convolution."""


def main(words: Sequence[str]) -> int:
    """Runs the command; the exit status."""
    types = (ModelArguments, AdapterArguments, ImageDataArguments, HeadArguments, RunArguments)
    return run_job(build_job(*parse(types, words, command="classify", description=DESCRIPTION, featured=FEATURED)))


def build_job(
    model: ModelArguments, adapter: AdapterArguments, data: ImageDataArguments, head: HeadArguments, run: RunArguments
) -> Job:
    """The job that the arguments describe, its data loaded and checked.

    Raises:
        UsageError: the data do not fit the arguments, or the model has no image processor.
    """
    push, token = take_hub_options(run)
    run.remove_unused_columns = False  # the columns exist only once they are transformed
    processor = load_processor(model, images=True, token=token)
    task = image_classification(load_splits(data, images=True), data, run.metric_source)
    return Job(
        model=model, adapter=adapter, data=data, run=run, task=task, processor=processor, command="classify",
        normalized_head=head.normalized_head, head_temperature=head.head_temperature, push=push, token=token,
    )  # fmt: skip
