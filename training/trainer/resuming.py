"""Which checkpoint a run resumes from, and whether it belongs to the same run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import SchedulerType

from training.errors import UsageError, public_settings
from training.job import Job, plain
from training.models.adapters import read_fields
from training.names import STATE
from training.settings.common import RunArguments
from training.trainer import checkpoints, digests

# What changes neither the data nor the steps, and may differ between the parts of one run.
_FREE = {
    "output_dir", "logging_dir", "logging_steps", "eval_strategy", "eval_steps", "save_strategy", "save_steps",
    "save_total_limit", "report_to", "push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "dry_run",
    "overwrite", "resume_from_checkpoint", "disable_tqdm", "license", "run_name", "metric_source", "log_level",
    "local_rank", "dataloader_num_workers", "per_device_eval_batch_size", "metrics", "logging_strategy", "use_cpu",
    "num_validation_samples", "num_test_samples", "test_data", "test_split", "ddp_backend",
    "general_text", "predict_with_generate", "num_beams", "max_new_tokens",
    "encoding", "separator", "quoting", "column_names", "skip_unreadable",  # the digests tell what was read
}  # fmt: skip
_RUN = (
    "learning_rate", "num_train_epochs", "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "weight_decay", "optim", "optim_args", "optim_target_modules",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "data_seed", "bf16", "fp16",
    "label_smoothing_factor", "gradient_checkpointing", "neftune_noise_alpha", "full_determinism",
    "early_stopping_patience",
)  # fmt: skip


_MODELS = ("model", "image_model", "text_model", "second_text_model")
# Names of what may lie elsewhere now; the digests say whether it is the same.
_BY_CONTENT = {"dataset", "adapter_config", "chat_template", *_MODELS}
_OTHERS = {
    "training_data": "the training data differ",
    "base_model": "the base model differs",
    "adapter_config": "the adapter config differs",
    "chat_template": "the chat template differs",
}


def facts_of(job: Job) -> dict[str, Any]:
    """Collect what the manifest of each checkpoint says about a run: settings, and digests of what it learns from."""
    models = {name: value for name in _MODELS if (value := getattr(job.model, name, None))}
    found = {"training_data": digests.of_data(job.task.splits["train"]), "base_model": digests.of_models(models)}
    if job.adapter.adapter_config:
        found["adapter_config"] = digests.of_fields(plain(read_fields(Path(job.adapter.adapter_config))))
    if template := getattr(job.data, "chat_template", None):
        found["chat_template"] = digests.of_fields({"text": Path(template).read_text(encoding="utf-8")})
    if job.run.load_best_model_at_end or job.run.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:
        found["validation_data"] = digests.of_data(job.task.splits["validation"])
    return {"settings": decisive_settings(job), "digests": found}


def identifying(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts without the names of what the digests compare by content, so that it may be renamed."""
    return facts | {
        "settings": {name: value for name, value in facts.get("settings", {}).items() if name not in _BY_CONTENT}
    }


def decisive_settings(job: Job) -> dict[str, Any]:
    """Return the settings that decide what is learned; equal for two parts of one run."""
    settings = public_settings(job.settings())
    run = {name: settings.get(name) for name in _RUN}
    if job.run.early_stopping_patience is not None:
        run["metric_for_best_model"] = settings.get("metric_for_best_model")
    others = {name: value for name, value in settings.items() if name not in _FREE and not hasattr(RunArguments, name)}
    batch = job.run.per_device_train_batch_size * job.run.world_size * job.run.gradient_accumulation_steps
    counts = {"train_samples": len(job.task.splits["train"]), "global_batch_size": batch}
    return {name: _told(value) for name, value in sorted((others | run | counts).items())}


def _told(value: Any) -> Any:
    """Return the value in the terms of JSON; infinity and NaN, which JSON lacks, as words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else plain(value)


def checkpoint_to_resume(folder: Path, run: RunArguments, facts: dict[str, Any]) -> Path | None:
    """Find the newest complete checkpoint of the same run, or check the one that was asked for; None starts over.

    Args:
        folder: of the run.
        run: its arguments.
        facts: see `facts_of`.

    Raises:
        UsageError: the checkpoints belong to a run with other settings or data, or of another model or adapter, or the
            one asked for is damaged.
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
    if changed := differences(checkpoints.read_manifest(found), facts):
        raise UsageError(
            f"{found} belongs to another run ({', '.join(changed[:4])}); pass another --output_dir, or --overwrite to "
            "start over"
        )
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List in what two parts of a run differ. A manifest without digests is compared by names."""
    old, new = before.get("digests") or {}, now["digests"]
    others = [text for name, text in _OTHERS.items() if old and old.get(name) != new.get(name)]
    validation = [one["validation_data"] for one in (old, new) if "validation_data" in one]  # where they decide
    if len(set(validation)) > 1:
        others.append("the validation data differ")
    was, now_is = before.get("settings", {}), now["settings"]
    names = sorted((was.keys() | now_is.keys()) - (_BY_CONTENT if old else set()))
    changed = [name for name in names if was.get(name) != now_is.get(name)]
    return others + [f"{name} was {was.get(name)!r} and is {now_is.get(name)!r}" for name in changed]


def progress(checkpoint: Path) -> str:
    """Say in a line what a run has left to do from this checkpoint."""
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if state["global_step"] < state["max_steps"]:
        return f"from {checkpoint.name}, with {state['max_steps']:,} steps in all"
    return (
        f"from {checkpoint.name}, which is already complete: all {state['max_steps']:,} steps are done, so "
        "nothing more is trained (--overwrite starts over)"
    )


def _on_main_process(run: RunArguments, action: Any) -> None:
    with run.main_process_first(desc="clearing the output folder"):
        if run.process_index == 0:
            action()
