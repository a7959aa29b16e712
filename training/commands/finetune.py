"""`deep-lora finetune`: classification, regression, tags, causal LM and seq2seq with an adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.data import load_splits
from training.errors import UsageError
from training.job import Job, take_hub_options
from training.models.loading import load_processor
from training.runner import run_job
from training.settings.common import FEATURED, AdapterArguments, ModelArguments, RunArguments
from training.settings.heads import HeadArguments
from training.settings.parsing import parse
from training.tasks.base import Task
from training.tasks.glue import with_glue
from training.tasks.language import causal_lm, seq2seq
from training.tasks.text import TextDataArguments
from training.tasks.text_classification import classification, regression
from training.tasks.token_classification import token_classification

DESCRIPTION = """Fine-tunes a language model with an adapter, on a file of your own or any data set.

  deep-lora finetune --model distilbert-base-uncased --dataset reviews.csv
  deep-lora finetune --model distilbert-base-uncased --glue sst2 --num_train_samples 1000
  deep-lora finetune --model HuggingFaceTB/SmolLM2-135M --task causal_lm --dataset texts.jsonl --load_in_4bit

Written to --output_dir: the adapter, for Deep LoRA its plain LoRA export, results.json, training.png and checkpoints.
The same command goes on from the newest complete checkpoint after a kill."""
BUILDERS: dict[str, Callable[..., Task]] = {
    "classification": classification,
    "regression": regression,
    "token_classification": token_classification,
    "causal_lm": causal_lm,
    "seq2seq": seq2seq,
}


def main(words: Sequence[str]) -> int:
    """Runs the command; the exit status."""
    types = (ModelArguments, AdapterArguments, TextDataArguments, HeadArguments, RunArguments)
    return run_job(build_job(*parse(types, words, command="finetune", description=DESCRIPTION, featured=FEATURED)))


def build_job(
    model: ModelArguments, adapter: AdapterArguments, data: TextDataArguments, head: HeadArguments, run: RunArguments
) -> Job:
    """The job that the arguments describe, its data loaded and checked.

    Raises:
        UsageError: the arguments do not go together, or the data do not fit them.
    """
    if data.glue:
        data = with_glue(data, data.glue)
    if head.normalized_head and data.task not in ("classification", "token_classification"):
        raise UsageError(f"--normalized_head needs classes to tell apart; --task {data.task} has none")
    if run.label_smoothing_factor and data.task == "regression":
        raise UsageError("--label_smoothing_factor smooths classes, of which --task regression has none; leave it out")
    push, token = take_hub_options(run)
    processor = load_processor(model, token=token)
    task = BUILDERS[data.task](load_splits(data), data, run.metric_source)
    return Job(
        model=model, adapter=adapter, data=data, run=run, task=task, processor=processor, command="finetune",
        normalized_head=head.normalized_head, head_temperature=head.head_temperature, push=push, token=token,
    )  # fmt: skip
