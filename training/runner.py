"""Run a training job: model, Trainer, results. What differs between jobs is in their `Task`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback, set_seed
from transformers.utils import logging

from deep_lora import DeepLoraCallback, SubspaceInitializationCallback
from training.errors import RunError, UsageError, refused
from training.job import Job
from training.models.adapters import has_subspaces
from training.names import ADAPTER, TRAINABLE
from training.results import report
from training.results.exporting import save_adapter
from training.results.hub import push
from training.settings.common import RunArguments
from training.trainer.optimizer import choose_length, choose_rate, is_ruled, sharding_frameworks
from training.trainer.resuming import checkpoint_to_resume, facts_of, progress
from training.trainer.trainer import AdapterTrainer, NonFiniteLoss, saving_error


@dataclass(frozen=True)
class TrainingResult:
    """What a run gives back; a dry run has no metrics and no folders but its own.

    Attributes:
        folder: everything that was written, `results.json` among it.
        adapter: the folder of the adapter, which for Deep LoRA has the same update as plain LoRA at its root.
        trainable: the folder of the Deep LoRA adapter in it, for training on; None for other methods.
        metrics: by the data they are measured on, "validation" and, where there are such data, "test".
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
    if main_process:
        _warn_of_ddp(job.run)
    else:
        logging.set_verbosity_error()
    _refuse_empty_epoch(job)
    set_seed(job.run.seed)
    model = job.task.build_model(job)
    choose_rate(job.run)
    choose_length(job.run, len(job.task.splits["train"]))
    is_ruled(job.adapter, model)  # a dry run refuses what cannot work too
    folder = Path(job.run.output_dir or "runs")
    if main_process:
        print(report.describe(job, model), flush=True)
    if job.run.dry_run:
        return TrainingResult(folder, job.task.main_metric)
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
    metrics = evaluate(job, trainer)
    _save(job, trainer, folder, metrics, resume)
    if main_process:
        print(report.summary(folder, metrics), flush=True)
    trainer.accelerator.wait_for_everyone()
    if job.push and main_process:
        _push(job, folder)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _checkpoint(job: Job, folder: Path, facts: dict[str, Any]) -> Path | None:
    """Find the checkpoint to resume from, and print a line that says so."""
    resume = checkpoint_to_resume(folder, job.run, facts)
    if resume is not None and job.run.process_index == 0:
        print(f"{'resumed':>14}  {progress(resume)}", flush=True)
    return resume


def _refuse_empty_epoch(job: Job) -> None:
    rows, batch = len(job.task.splits["train"]), job.run.train_batch_size * job.run.world_size
    if job.run.dataloader_drop_last and rows < batch:
        raise UsageError(
            f"{rows} training samples fill no batch of {batch}, and --dataloader_drop_last leaves out the rest; pass "
            "a smaller --per_device_train_batch_size, or leave --dataloader_drop_last out"
        )


def _save(
    job: Job, trainer: AdapterTrainer, folder: Path, metrics: dict[str, dict[str, float]], resumed: Path | None
) -> None:
    """Write the adapter, its export and the results.

    Raises:
        RunError: they cannot be written; the text says which checkpoint is kept.
    """
    answers = None
    if job.task.answers is not None:
        model = trainer.accelerator.unwrap_model(trainer.model)
        answers = job.task.answers(trainer, model, job.task.splits["validation"])
    try:
        save_adapter(trainer, folder)
        if job.run.process_index == 0:
            report.write(folder, job, trainer, metrics, resumed, answers)
    except (OSError, SafetensorError) as error:
        raise saving_error(error, folder, ADAPTER) from error


def _warn_of_ddp(run: RunArguments) -> None:
    """Warn on a CPU, where accelerate silently copies the weights to each process instead of sharding them."""
    if "FSDP" in sharding_frameworks() and run.device.type == "cpu":
        warnings.warn("accelerate has no FSDP on the CPU: each process holds the whole model (DDP)", stacklevel=3)


def build_trainer(job: Job, model: nn.Module, facts: dict[str, Any]) -> AdapterTrainer:
    """Build the Trainer of a job, with encoded data; `facts` go into the manifest of each checkpoint."""
    with job.run.main_process_first(desc="encoding the data"):
        encoded = job.task.encode(job.task.splits, job.processor)
    callbacks: list[Any] = initialization(job, model)
    trainer: Any = job.task.trainer_class(
        model=model,
        args=job.run,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        data_collator=job.task.collate(job.processor, model),
        processing_class=job.processor,
        callbacks=[*callbacks, *job.task.callbacks(job, model)],
        compute_metrics=job.task.score,
        preprocess_logits_for_metrics=job.task.reduce_logits,
        facts=facts,
    )
    for callback in callbacks if job.task.own_loss else ():
        callback.trainer = trainer
    trainer.test_dataset = encoded.get("test")
    return trainer


def evaluate(job: Job, trainer: AdapterTrainer) -> dict[str, dict[str, float]]:
    """Return the metrics on the validation data, and on the test data if there are some."""
    metrics = {"validation": trainer.evaluate(metric_key_prefix="validation")}
    if trainer.test_dataset is not None:
        metrics["test"] = trainer.evaluate(trainer.test_dataset, metric_key_prefix="test")
    kept = {}
    for split, values in metrics.items():
        named = {key.removeprefix(f"{split}_"): value for key, value in values.items() if key != "epoch"}
        kept[split] = {key: float(value) for key, value in named.items() if "per_second" not in key}
    return kept


def initialization(job: Job, model: nn.Module) -> list[TrainerCallback]:
    """Return the callback that sets the subspaces and the step rule of an adapter, where it has some."""
    if is_ruled(job.adapter, model):
        return [DeepLoraCallback(path=job.adapter.path_length, num_batches=job.adapter.init_batches)]
    if not job.adapter.init_batches or not has_subspaces(model):
        return []
    return [SubspaceInitializationCallback(num_batches=job.adapter.init_batches, seed=job.run.seed)]


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
