"""`deep-lora finetune`: a language model with an adapter, for any task in `training.tasks.registry`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from training.errors import UsageError
from training.job import Job, Task, take_hub_options
from training.models.loading import fitted_length, load_processor
from training.runner import TrainingResult, run_job
from training.settings.adapter import AdapterArguments
from training.settings.common import COMMON, HeadArguments, ModelArguments, RunArguments
from training.settings.data import TextDataArguments
from training.settings.parsing import option_names, parse, settings_as_words
from training.tasks.glue import with_glue
from training.tasks.registry import TASKS, load_task, require_task

DESCRIPTION = f"""Fine-tune a language model with an adapter, on a file of your own or any data set.

  deep-lora finetune --model distilbert-base-uncased --dataset reviews.csv
  deep-lora finetune --model distilbert-base-uncased --glue sst2 --num_train_samples 1000
  deep-lora finetune --model HuggingFaceTB/SmolLM2-135M --task causal_lm --dataset texts.jsonl --load_in_4bit

Tasks: {", ".join(TASKS)}.
Written to --output_dir: the adapter, for Deep LoRA its plain LoRA export, results.json, training.png and checkpoints.
After a kill, rerun the same command to resume from the newest complete checkpoint."""
SHOWN = (
    "model", "dataset", "task", "text_column", "label_column", "target_column", "validation_data", "metrics",
    "max_length", *COMMON, "balance_classes",
)  # fmt: skip
TYPES = (ModelArguments, AdapterArguments, TextDataArguments, HeadArguments, RunArguments)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    _run(words)
    return 0


def run(settings: dict[str, Any]) -> TrainingResult:
    """Do what the command does, with its options as a dictionary; see `training.finetune`."""
    return _run(settings_as_words(settings, option_names(TYPES), "finetune"))


def _run(words: Sequence[str]) -> TrainingResult:
    return run_job(build_job(*parse(TYPES, words, command="finetune", description=DESCRIPTION, common=SHOWN)))


def build_job(
    model: ModelArguments, adapter: AdapterArguments, data: TextDataArguments, head: HeadArguments, run: RunArguments
) -> Job:
    """Build the job that the arguments describe, with its data loaded and checked.

    Raises:
        UsageError: the arguments do not go together, or the data do not fit them.
    """
    require_task(data.task)
    if data.glue:
        data = with_glue(data, data.glue)
    push, token = take_hub_options(run)
    data = dataclasses.replace(data, max_length=fitted_length(model, data.max_length, token, data.usual_length))
    task = load_task(data, run.metric_source)
    _check(task, data, head, run)
    processor = load_processor(model, token=token)
    return Job(
        model=model, adapter=adapter, data=data, run=run, task=task, processor=processor, command="finetune",
        head=head, push=push, token=token,
    )  # fmt: skip


def _check(task: Task, data: TextDataArguments, head: HeadArguments, run: RunArguments) -> None:
    """Raise if an option has no meaning for the task."""
    one_of_several = task.classes_of is not None
    if head.normalized_head and not one_of_several:
        raise UsageError(f"--normalized_head needs classes to tell apart; --task {task.name} has none")
    if run.label_smoothing_factor and (task.own_loss or (task.num_labels and not one_of_several)):
        raise UsageError(f"--label_smoothing_factor smooths classes; --task {task.name} has none, so leave it out")
    if data.predict_with_generate and not task.generates:
        raise UsageError(f"--predict_with_generate needs --task seq2seq; --task {task.name} has no text to compare")
