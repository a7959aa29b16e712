"""Run a training job: model, Trainer, results. What differs between jobs is in their `Task`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import EvalPrediction, TrainerCallback, set_seed
from transformers.utils import logging

from deep_lora import DeepLoraCallback, SubspaceInitializationCallback
from training.errors import RunError, UsageError, enough_memory, refused
from training.job import Job, Task
from training.models.adapters import has_subspaces
from training.models.ends import require_ends
from training.names import ADAPTER, TRAINABLE
from training.results import report
from training.results.classes import class_scores
from training.results.exporting import save_adapter
from training.results.folders import is_of_writing, refuse_other_run, require_writable, run_identity
from training.results.hub import push
from training.results.labels import label_scores
from training.settings.common import RunArguments
from training.trainer.losses import balanced_weights, weighted_loss
from training.trainer.optimizer import choose_length, choose_rate, is_ruled, sharding_frameworks
from training.trainer.refusals import refuse_empty_epoch, refuse_liger, refuse_unknown_metric
from training.trainer.resuming import checkpoint_to_resume, facts_of, progress
from training.trainer.stopping import BestCheckpoint, EarlyStopping
from training.trainer.trainer import AdapterTrainer, NonFiniteLoss, saving_error

_SMALLER = (
    "pass a smaller --per_device_train_batch_size with more --gradient_accumulation_steps, --gradient_checkpointing, "
    "--bf16 or --load_in_4bit"
)


@dataclass(frozen=True)
class TrainingResult:
    """What a run gives back; a dry run has no metrics and no folders but its own.

    Attributes:
        folder: everything that was written, `results.json` among it.
        adapter: the folder of the adapter, which for Deep LoRA has the same update as plain LoRA at its root.
        trainable: the folder of the Deep LoRA adapter in it, for training on; None for other methods.
        metrics: by the data they are measured on: "validation", and "test" if there are test data.
        main_metric: the name of the metric that says how good the model is.
    """

    folder: Path
    main_metric: str
    adapter: Path | None = None
    trainable: Path | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def run_job(job: Job) -> TrainingResult:
    """Train, validate, test, save, export and report.

    Raises:
        UsageError: an argument cannot work.
        RunError: the run stopped: a loss that is not finite, no space.
    """
    main_process = job.run.process_index == 0
    folder = Path(job.run.output_dir or "runs")
    require_writable(folder)
    if main_process:
        _warn_of_ddp(job.run)
    else:
        logging.set_verbosity_error()
    refuse_empty_epoch(job)
    refuse_unknown_metric(job)
    set_seed(job.run.seed)
    with enough_memory("pass a smaller --rank, --dtype bfloat16 or --load_in_4bit"):
        model = job.task.build_model(job)
    refuse_liger(job, model)
    choose_rate(job.run)
    choose_length(job.run, len(job.task.splits["train"]))
    is_ruled(job.adapter, model)  # a dry run refuses what cannot work too
    if main_process:
        print(report.describe(job, model), flush=True)
    if job.run.dry_run:
        _rehearse(job, model, folder)
        return TrainingResult(folder, job.task.main_metric)
    with enough_memory(_SMALLER):
        metrics = _train(job, model, folder)
    adapter = folder / ADAPTER
    trainable = adapter / TRAINABLE if (adapter / TRAINABLE).is_dir() else None
    return TrainingResult(folder, job.task.main_metric, adapter, trainable, metrics)


def _train(job: Job, model: nn.Module, folder: Path) -> dict[str, dict[str, float]]:
    """Train, evaluate and write everything; the metrics."""
    main_process = job.run.process_index == 0
    facts = facts_of(job)
    resume = _checkpoint(job, folder, facts)
    trainer = build_trainer(job, model, facts)
    try:
        with refused("the training cannot start", ImportError):  # what an option needs and is not installed
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except NonFiniteLoss as error:
        report.write_failure(folder, job, trainer, str(error))
        raise
    metrics, by_class = evaluate(job, trainer)
    _save(job, trainer, folder, report.Measured(metrics, by_class, resume))
    if main_process:
        print(report.summary(folder, metrics, by_class), flush=True)
    trainer.accelerator.wait_for_everyone()
    if job.push and main_process:
        _push(job, folder)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _rehearse(job: Job, model: nn.Module, folder: Path) -> None:
    """Refuse what a run would refuse before its first step; what is written meanwhile goes to another folder.

    Raises:
        UsageError: the folder belongs to another run, or Trainer, optimizer or schedule cannot be set up.
    """
    facts = facts_of(job)
    if not job.run.overwrite:
        _checkpoint(job, folder, facts)
    with tempfile.TemporaryDirectory() as spare:
        job.run.output_dir = spare
        try:
            trainer = build_trainer(job, model, facts)
            trainer.create_optimizer_and_scheduler(max(job.run.max_steps, 1))
        finally:
            job.run.output_dir = str(folder)


def _checkpoint(job: Job, folder: Path, facts: dict[str, Any]) -> Path | None:
    """Find the checkpoint to resume from, and print a line that says so."""
    resume = checkpoint_to_resume(folder, job.run, facts)
    if resume is None and not job.run.overwrite:
        refuse_other_run(folder, job.command, run_identity(facts))
    if resume is not None and job.run.process_index == 0:
        print(f"{'resumed':>14}  {progress(resume)}", flush=True)
    return resume


def _save(job: Job, trainer: AdapterTrainer, folder: Path, measured: report.Measured) -> None:
    """Write the adapter, its export and the results.

    Raises:
        RunError: they cannot be written; the text says which checkpoint is kept.
    """
    try:
        save_adapter(trainer, folder)
        answers = None
        if job.task.answers is not None:
            model = trainer.accelerator.unwrap_model(trainer.model)
            answers = job.task.answers(trainer, model, job.task.splits["validation"])
        if job.run.process_index == 0:
            report.write(folder, job, trainer, measured, answers)
    except Exception as error:
        if not is_of_writing(error):
            raise
        raise saving_error(error, folder, ADAPTER) from error


def _warn_of_ddp(run: RunArguments) -> None:
    """Warn on a CPU, where accelerate silently copies the weights to each process instead of sharding them."""
    if "FSDP" in sharding_frameworks() and run.device.type == "cpu":
        warnings.warn("accelerate has no FSDP on the CPU: each process holds the whole model (DDP)", stacklevel=3)


def build_trainer(job: Job, model: nn.Module, facts: dict[str, Any]) -> AdapterTrainer:
    """Build the Trainer of a job, with encoded data; `facts` go into the manifest of each checkpoint."""
    with job.run.main_process_first(desc="encoding the data"):
        encoded = job.task.encode(job.task.splits, job.processor)
    for name, split in encoded.items() if job.task.peft_task == "SEQ_CLS" else ():
        require_ends(model, split["input_ids"], job.processor.eos_token, f"{name} texts")
    callbacks: list[Any] = initialization(job, model)
    trainer: Any = job.task.trainer_class(
        model=model,
        args=job.run,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        data_collator=job.task.collate(job.processor, model),
        processing_class=job.processor,
        callbacks=[*callbacks, *job.task.callbacks(job, model), *stopping(job.run)],
        compute_metrics=None if job.task.score is None else Seen(job.task.score),
        preprocess_logits_for_metrics=job.task.reduce_logits,
        facts=facts,
        **({"compute_loss_func": _balanced(job)} if job.head.balance_classes else {}),
    )
    for callback in callbacks if job.task.own_loss else ():
        callback.trainer = trainer
    for callback in job.task.watchers(trainer, job.processor):
        trainer.add_callback(callback)
    trainer.test_dataset = encoded.get("test")
    return trainer


class Seen:
    """The score of a task, which remembers the predictions that it was last given."""

    def __init__(self, score: Callable[[EvalPrediction], dict[str, float]]) -> None:
        self.score = score
        self.last: EvalPrediction | None = None

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        self.last = prediction
        return self.score(prediction)


def evaluate(job: Job, trainer: AdapterTrainer) -> tuple[dict[str, dict[str, float]], dict[str, report.Scores]]:
    """Return metrics, and scores by class or label if the task has some: of the validation data, and of test data."""
    # The Trainer has its validation data. If they were passed, TRL would prepare them again, and pack packed rows.
    data: dict[str, dict[str, Any]] = {"validation": {}}
    if trainer.test_dataset is not None:
        data["test"] = {"eval_dataset": trainer.test_dataset}
    metrics: dict[str, dict[str, float]] = {}
    by_class: dict[str, report.Scores] = {}
    for split, held in data.items():
        found = trainer.evaluate(**held, metric_key_prefix=split)
        named = {key.removeprefix(f"{split}_"): value for key, value in found.items() if key != "epoch"}
        metrics[split] = {key: float(value) for key, value in named.items() if "per_second" not in key}
        seen = trainer.compute_metrics
        if isinstance(seen, Seen) and seen.last is not None and (scores := _by_class(job.task, seen.last)):
            by_class[split] = scores
    return metrics, by_class


def _by_class(task: Task, prediction: EvalPrediction) -> report.Scores | None:
    """Return scores by class, or by label, of a task that has some."""
    if task.classes_of:
        return class_scores(*task.classes_of(prediction), task.label_names or [], task.counts["train"])
    if task.labels_of:
        rows = len(task.splits["train"])
        return label_scores(*task.labels_of(prediction), task.label_names or [], task.counts["train"], rows)
    return None


def initialization(job: Job, model: nn.Module) -> list[TrainerCallback]:
    """Return the callback that sets the subspaces and the step rule of an adapter, where it has some."""
    if is_ruled(job.adapter, model):
        return [DeepLoraCallback(path=job.adapter.path_length, num_batches=job.adapter.init_batches)]
    if not job.adapter.init_batches or not has_subspaces(model):
        return []
    return [SubspaceInitializationCallback(num_batches=job.adapter.init_batches, seed=job.run.seed)]


def stopping(run: RunArguments) -> list[TrainerCallback]:
    """Return the callbacks that find the best model, and that end a run which does not get better, if asked for."""
    ending = [] if run.early_stopping_patience is None else [EarlyStopping(run.early_stopping_patience)]
    return [BestCheckpoint(), *ending]


def _balanced(job: Job) -> Callable[..., Any]:
    """Return the loss in which each class has the same weight.

    Raises:
        UsageError: the task has no classes, or labels are to be smoothed, which this loss does not do.
    """
    several = job.task.classes_of is not None
    if not several or job.run.label_smoothing_factor:
        raise UsageError(
            f"--balance_classes is for classes that exclude each other, without --label_smoothing_factor; --task "
            f"{job.task.name} has {'some: leave the smoothing out' if several else 'none, so leave it out'}"
        )
    return weighted_loss(balanced_weights(job.task.counts["train"]))


def _push(job: Job, folder: Path) -> None:
    """Upload the run.

    Raises:
        RunError: the Hub cannot be reached or refuses; nothing that was trained is lost.
    """
    run = job.run
    try:
        address = push(folder, run.hub_model_id, private=run.hub_private_repo, license=run.license, token=job.token)
    except RunError as error:
        again = f"deep-lora push --run {folder}" + (f" --hub_model_id {run.hub_model_id}" if run.hub_model_id else "")
        raise RunError(f"{error}. The training is complete and saved in {folder}; later: {again}") from error
    print(f"{'uploaded':>14}  {address}", flush=True)
