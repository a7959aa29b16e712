"""Runs a training job: model, Trainer, results. `finetune` and `classify` differ in the task alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback, set_seed
from transformers.utils import logging

from collapse import normalize_classifier_
from deep_lora import SubspaceInitializationCallback
from training.errors import RunError, UsageError, refused
from training.job import Job
from training.models.adapters import adapter_config, add_adapter, has_subspaces
from training.models.loading import load_base, prepare_base, quantization_config
from training.models.precision import train_in_full_precision
from training.results import report
from training.results.exporting import ADAPTER, save_adapter
from training.settings.common import RunArguments
from training.tasks.generation import keep_tokens
from training.trainer.generating import GeneratingTrainer
from training.trainer.optimizer import choose_rate, optimizer_settings, spreading
from training.trainer.resuming import checkpoint_to_resume, facts_of, progress
from training.trainer.trainer import AdapterTrainer, NonFiniteLoss, saving_error


class Recipe(NamedTuple):
    """What kinds of jobs do in their own way; the rest of a run is the same for all.

    Attributes:
        build_model: the model that is trained, with its adapters.
        trainer_class: makes the Trainer, with the arguments of `AdapterTrainer`.
        callbacks: job, model -> further callbacks.
    """

    build_model: Callable[[Job], nn.Module]
    trainer_class: Callable[..., AdapterTrainer]
    callbacks: Callable[[Job, nn.Module], list[TrainerCallback]]


def run_job(job: Job, recipe: Recipe | None = None) -> int:
    """Trains, validates, tests, saves, exports and reports; the exit status.

    Raises:
        UsageError: an argument cannot work.
        RunError: the run stopped: a loss that is not finite, no space.
    """
    recipe = recipe or ADAPTED
    main_process = job.run.process_index == 0
    if main_process:
        _warn_of_ddp(job.run)
    if not main_process:
        logging.set_verbosity_error()
    _refuse_empty_epoch(job)
    set_seed(job.run.seed)
    model = recipe.build_model(job)
    choose_rate(job.run, model)
    optimizer_settings(job.adapter, model)  # a dry run refuses them too
    if main_process:
        print(report.describe(job, model), flush=True)
    if job.run.dry_run:
        return 0
    folder = Path(job.run.output_dir or "runs")
    facts = facts_of(job)
    resume = _checkpoint(job, folder, facts)
    trainer = build_trainer(job, model, facts, recipe)
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
    if job.push:
        _push(job, folder, main_process)
    trainer.accelerator.wait_for_everyone()
    return 0


def _checkpoint(job: Job, folder: Path, facts: dict[str, Any]) -> Path | None:
    """`checkpoint_to_resume`, and a line that says so."""
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
    """The adapter, its export and the results.

    Raises:
        RunError: they cannot be written; the text says which checkpoint is kept.
    """
    try:
        save_adapter(trainer, folder)
        if job.run.process_index == 0:
            report.write(folder, job, trainer, metrics, resumed)
    except (OSError, SafetensorError) as error:
        raise saving_error(error, folder, ADAPTER) from error


def _warn_of_ddp(run: RunArguments) -> None:
    """accelerate spreads weights on accelerators only; on a CPU it silently copies them to each process."""
    if "FSDP" in spreading() and run.device.type == "cpu":
        warnings.warn("accelerate has no FSDP on the CPU: each process holds the whole model (DDP)", stacklevel=3)


def build_model(job: Job) -> PeftModel:
    """The base model with its new head and the adapter.

    Raises:
        UsageError: the model cannot be loaded, or the adapter does not fit it.
    """
    base = load_base(job.model, job.task, job.token)
    if job.normalized_head:
        try:
            normalize_classifier_(base.model, job.head_temperature)
        except ValueError as error:
            raise UsageError(f"--normalized_head: {error}") from error
    config = adapter_config(job.adapter, job.task.peft_task, base)
    prepared = prepare_base(
        base,
        job.processor,
        quantised=quantization_config(job.model) is not None,
        checkpointing=bool(job.run.gradient_checkpointing),
    )
    model = add_adapter(prepared, config)
    train_in_full_precision(model)
    return model


def build_trainer(job: Job, model: nn.Module, facts: dict[str, Any], recipe: Recipe | None = None) -> AdapterTrainer:
    """The Trainer of a job, with encoded data; `facts` go into the manifest of each checkpoint."""
    recipe = recipe or ADAPTED
    with job.run.main_process_first(desc="encoding the data"):
        encoded = job.task.encode(job.task.splits, job.processor)
    shared: dict[str, Any] = {
        "model": model,
        "args": job.run,
        "train_dataset": encoded["train"],
        "eval_dataset": encoded["validation"],
        "data_collator": job.task.collate(job.processor, model),
        "processing_class": job.processor,
        "callbacks": [*initialization(job, model), *recipe.callbacks(job, model)],
        "optimizer_settings": optimizer_settings(job.adapter, model),
        "facts": facts,
    }
    score, reduce, generation = job.task.score, job.task.reduce_logits, job.task.generation
    if generation is not None and reduce is not None:
        trainer: AdapterTrainer = GeneratingTrainer(
            generation=generation.settings,
            compute_metrics=generation.scorer(job.processor, score),
            preprocess_logits_for_metrics=keep_tokens(reduce),
            **shared,
        )
    else:
        trainer = recipe.trainer_class(compute_metrics=score, preprocess_logits_for_metrics=reduce, **shared)
    trainer.test_dataset = encoded.get("test")
    return trainer


def evaluate(job: Job, trainer: AdapterTrainer) -> dict[str, dict[str, float]]:
    """Metrics on the validation data, and on the test data if there are some."""
    metrics = {"validation": trainer.evaluate(metric_key_prefix="validation")}
    if trainer.test_dataset is not None:
        metrics["test"] = trainer.evaluate(trainer.test_dataset, metric_key_prefix="test")
    kept = {}
    for split, values in metrics.items():
        named = {key.removeprefix(f"{split}_"): value for key, value in values.items() if key != "epoch"}
        kept[split] = {key: float(value) for key, value in named.items() if "per_second" not in key}
    return kept


def initialization(job: Job, model: nn.Module) -> list[TrainerCallback]:
    """The callback that sets the subspaces of Deep LoRA, where there are some to set."""
    if not job.adapter.init_batches or not has_subspaces(model):
        return []
    adapter = job.adapter
    return [
        SubspaceInitializationCallback(
            num_batches=adapter.init_batches,
            seed=job.run.seed,
            exact_bytes=adapter.init_exact_bytes,
            sides=adapter.init_sides,
        )
    ]


ADAPTED = Recipe(build_model, AdapterTrainer, lambda job, model: [])


def _push(job: Job, folder: Path, main_process: bool) -> None:
    """Uploads the run from the main process.

    Raises:
        RunError: the Hub cannot be reached or refuses; nothing that was trained is lost.
    """
    if not main_process:
        return
    from training.results.hub import push

    run = job.run
    try:
        address = push(folder, run.hub_model_id, private=run.hub_private_repo, license=run.license, token=job.token)
    except RunError as error:
        again = f"deep-lora push --run {folder}" + (f" --hub_model_id {run.hub_model_id}" if run.hub_model_id else "")
        raise RunError(f"{error}. The training is complete and saved in {folder}; later: {again}") from error
    print(f"{'uploaded':>14}  {address}", flush=True)
