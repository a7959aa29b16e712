"""`deep-lora contrastive`: images with texts, or texts with texts, in one space with a small gap between them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn
from transformers import TrainerCallback

from modality import TemperatureScheduleCallback
from training.data import load_splits
from training.errors import UsageError
from training.job import Job, take_hub_options
from training.pairs.arguments import MethodArguments, PairDataArguments, PairModelArguments
from training.pairs.method import make_schedule, make_temperature, swapping
from training.pairs.models import build_contrastive
from training.pairs.processor import load_pair_processor, tower_names
from training.pairs.task import pair_task
from training.pairs.trainer import ContrastiveTrainer, SwapCountCallback
from training.runner import Recipe, run_job
from training.settings.common import FEATURED, AdapterArguments, RunArguments
from training.settings.parsing import parse
from training.trainer.optimizer import spreading

DESCRIPTION = """Trains on pairs: a CLIP-like model or two towers, with adapters, and methods against the modality gap.

  deep-lora contrastive --model openai/clip-vit-base-patch32 --dataset pictures.csv --schedule linear --swap hard
  deep-lora contrastive --image_model google/vit-base-patch16-224-in21k --text_model bert-base-uncased \\
      --dataset pictures
  deep-lora contrastive --text_model bert-base-uncased --dataset answers.csv --text_column question \\
      --second_text_column answer

A file has a column with paths of images, and one with texts; a folder of images has a metadata.jsonl or metadata.csv
with the columns file_name and text. Pairs with the same text are not held against each other. Every step contrasts the
pairs of all processes; accumulated batches do not see each other."""
TYPES = (PairModelArguments, AdapterArguments, PairDataArguments, MethodArguments, RunArguments)


def main(words: Sequence[str]) -> int:
    """Runs the command; the exit status."""
    job = build_job(*parse(TYPES, words, command="contrastive", description=DESCRIPTION, featured=FEATURED))
    return run_job(job, recipe(job))


def build_job(
    model: PairModelArguments,
    adapter: AdapterArguments,
    data: PairDataArguments,
    method: MethodArguments,
    run: RunArguments,
) -> Job:
    """The job that the arguments describe, its data loaded and checked.

    Raises:
        UsageError: the arguments do not go together, or the data do not fit them.
    """
    refuse_spread_weights()
    if run.label_smoothing_factor:
        raise UsageError(
            f"--label_smoothing_factor got {run.label_smoothing_factor}; it smooths classes, of which pairs have none: "
            "pass --label_smoothing, which spreads a part of each target over the pairs of the batch"
        )
    push, token = take_hub_options(run)
    tower_names(model, data)
    make_temperature(method, None)
    run.remove_unused_columns = False  # the columns that models take exist only in batches
    splits = load_splits(data, images=data.second_text_column is None)
    batch = run.per_device_train_batch_size * run.world_size
    task = pair_task(splits, data, partial(swapping, method=method, seed=run.seed), batch)
    processor = load_pair_processor(model, data, token)
    return Job(
        model=model, adapter=adapter, data=data, run=run, task=task, processor=processor, command="contrastive",
        method=method, push=push, token=token,
    )  # fmt: skip


def refuse_spread_weights() -> None:
    """Raise if accelerate was told to spread the weights over processes.

    Raises:
        UsageError: for FSDP and DeepSpeed.
    """
    for name in spreading():
        raise UsageError(
            f"{name} spreads weights over processes, which a temperature and a contrast of all pairs do not bear; "
            "use DDP (ddp.yaml), and --chunk_size or --gradient_checkpointing where memory is short"
        )


def recipe(job: Job) -> Recipe:
    """How the run of a contrastive job differs from others."""
    trainer = partial(ContrastiveTrainer, temperature_rate=job.method.temperature_rate)
    return Recipe(build_contrastive, trainer, _callbacks)


def _callbacks(job: Job, model: nn.Module) -> list[TrainerCallback]:
    schedule = make_schedule(job.method)
    following = [] if schedule is None else [TemperatureScheduleCallback(schedule, parameter="temperature")]
    return [SwapCountCallback(), *following]
