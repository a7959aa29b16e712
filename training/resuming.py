"""Which checkpoint a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training import checkpoints
from training.errors import UsageError, public_settings
from training.job import Job
from training.settings import RunArguments

# What changes neither the data nor the steps, and may differ between the parts of one run.
_FREE = {
    "output_dir", "logging_dir", "logging_steps", "eval_strategy", "eval_steps", "save_strategy", "save_steps",
    "save_total_limit", "report_to", "push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "dry_run",
    "overwrite", "resume_from_checkpoint", "disable_tqdm", "license", "run_name", "metric_source", "log_level",
    "local_rank", "dataloader_num_workers", "per_device_eval_batch_size", "metrics", "logging_strategy", "use_cpu",
    "num_validation_samples", "num_test_samples", "test_data", "test_split", "ddp_backend",
    "predict_with_generate", "num_beams", "max_new_tokens",
}  # fmt: skip
_RUN = (
    "learning_rate", "num_train_epochs", "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "weight_decay", "optim", "optim_args", "optim_target_modules",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "data_seed", "bf16", "fp16",
    "label_smoothing_factor", "gradient_checkpointing", "neftune_noise_alpha", "full_determinism",
)  # fmt: skip


def decisive_settings(job: Job) -> dict[str, Any]:
    """The settings that decide what is learned; equal for two parts of one run."""
    settings = public_settings(job.settings())
    run = {name: settings.get(name) for name in _RUN}
    others = {name: value for name, value in settings.items() if name not in _FREE and not hasattr(RunArguments, name)}
    batch = job.run.per_device_train_batch_size * job.run.world_size * job.run.gradient_accumulation_steps
    counts = {"train_samples": len(job.task.splits["train"]), "global_batch_size": batch}
    return {name: _plain(value) for name, value in sorted((others | run | counts).items())}


def checkpoint_to_resume(folder: Path, run: RunArguments, settings: dict[str, Any]) -> Path | None:
    """The newest complete checkpoint of the same run, the one that was asked for, or None to start anew.

    Raises:
        UsageError: the checkpoints belong to a run with other settings, or the one asked for is damaged.
    """
    if run.overwrite:
        _on_main_process(run, lambda: checkpoints.clear(folder))
        return None
    if run.resume_from_checkpoint:
        found = Path(run.resume_from_checkpoint)
        if wrong := checkpoints.damage(found):
            raise UsageError(f"--resume_from_checkpoint {found} cannot be used: {wrong}; leave it out to find one")
    else:
        newest = checkpoints.newest_complete(folder)
        if newest is None:
            return None
        found = newest
    before = checkpoints.read_manifest(found).get("settings", {})
    changed = [name for name in sorted(settings.keys() | before.keys()) if settings.get(name) != before.get(name)]
    if changed:
        pairs = ", ".join(f"{name} was {before.get(name)!r} and is {settings.get(name)!r}" for name in changed[:4])
        raise UsageError(
            f"{found} belongs to a run with other settings ({pairs}); pass another --output_dir, or --overwrite to "
            "start anew"
        )
    return found


def _on_main_process(run: RunArguments, action: Any) -> None:
    with run.main_process_first(desc="clearing the output folder"):
        if run.process_index == 0:
            action()


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(getattr(value, "value", value))
