"""`deep-lora contrastive`: images with texts, or texts with texts, in one space with a small gap between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from training.data import load_splits
from training.errors import UsageError
from training.job import Job, take_hub_options
from training.pairs.arguments import MethodArguments, PairDataArguments, PairModelArguments
from training.pairs.method import make_temperature
from training.pairs.processor import load_pair_processor, tower_names
from training.pairs.task import first_entries, pair_columns, pair_task
from training.runner import run_job
from training.settings.adapter import AdapterArguments
from training.settings.common import COMMON, RunArguments
from training.settings.parsing import option, parse
from training.trainer.optimizer import sharding_frameworks

DESCRIPTION = """Train on pairs: a CLIP-like model or two towers, with adapters, and methods against the modality gap.

  deep-lora contrastive --model openai/clip-vit-base-patch32 --dataset pictures.csv --schedule linear --swap hard
  deep-lora contrastive --image_model google/vit-base-patch16-224-in21k --text_model bert-base-uncased \\
      --dataset pictures
  deep-lora contrastive --text_model bert-base-uncased --dataset answers.csv --text_column question \\
      --second_text_column answer

A file has a column with paths of images, and one with texts; a folder of images has a metadata.jsonl or metadata.csv
with the columns file_name and text. A picture with several captions has a row for each, a list in its row, or a
column for each (--text_columns). Pairs with the same picture or the same text are not contrasted with each other. Every
step contrasts the pairs of all processes; accumulated batches do not see each other."""
SHOWN = (
    "model", "image_model", "text_model", "dataset", "image_column", "text_column", "second_text_column", "loss",
    "temperature", "schedule", "swap", *COMMON,
)  # fmt: skip


@dataclass
class PairRun(RunArguments):
    """As `RunArguments`, with a folder of its own."""

    output_dir: str | None = option("runs/contrastive", "Folder for everything that is written.")


TYPES = (PairModelArguments, AdapterArguments, PairDataArguments, MethodArguments, PairRun)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    run_job(build_job(*parse(TYPES, words, command="contrastive", description=DESCRIPTION, common=SHOWN)))
    return 0


def build_job(
    model: PairModelArguments,
    adapter: AdapterArguments,
    data: PairDataArguments,
    method: MethodArguments,
    run: RunArguments,
) -> Job:
    """Build the job that the arguments describe, with its data loaded and checked.

    Raises:
        UsageError: the arguments do not go together, or the data do not fit them.
    """
    refuse_sharded_weights()
    if run.label_smoothing_factor:
        raise UsageError(
            f"--label_smoothing_factor got {run.label_smoothing_factor}, but pairs have no classes to smooth; "
            "pass --label_smoothing, which spreads a part of each target over the pairs of the batch"
        )
    push, token = take_hub_options(run)
    tower_names(model, data)
    make_temperature(method, None)
    run.remove_unused_columns = False  # the columns that models take exist only in batches
    groups = partial(first_entries, data=data)
    splits = load_splits(data, pair_columns(data), groups=groups, images=data.second_text_column is None)
    task = pair_task(splits, data, method, seed=run.seed, batch=run.per_device_train_batch_size * run.world_size)
    processor = load_pair_processor(model, data, token)
    return Job(
        model=model, adapter=adapter, data=data, run=run, task=task, processor=processor, command="contrastive",
        method=method, push=push, token=token,
    )  # fmt: skip


def refuse_sharded_weights() -> None:
    """Raise if accelerate was told to shard the weights over processes.

    Raises:
        UsageError: for FSDP and DeepSpeed.
    """
    for name in sharding_frameworks():
        raise UsageError(
            f"{name} shards the weights over processes, which does not work with a learned temperature and a contrast "
            "of all pairs; use DDP (ddp.yaml), and --chunk_size or --gradient_checkpointing where memory is short"
        )
