"""What a run refuses before its first step, once its data and its model are known."""

from __future__ import annotations

from torch import nn

from training.errors import UsageError
from training.job import Job
from training.models.adapters import adapted_parts


def refuse_empty_epoch(job: Job) -> None:
    """Raise if the training samples do not fill one batch, and what does not fill one is left out.

    Raises:
        UsageError: then.
    """
    rows, batch = len(job.task.splits["train"]), job.run.train_batch_size * job.run.world_size
    if job.run.dataloader_drop_last and rows < batch:
        raise UsageError(
            f"{rows} training samples do not fill a batch of {batch}, and --dataloader_drop_last leaves out the rest; "
            "pass a smaller --per_device_train_batch_size, or leave --dataloader_drop_last out"
        )


def refuse_unknown_metric(job: Job) -> None:
    """Raise if checkpoints are to be ranked by a metric that the task does not have; Trainer finds out too late.

    Raises:
        UsageError: the text lists those it has.
    """
    name, known = job.run.metric_for_best_model, ["loss", *job.task.scores]
    if name is not None and name.removeprefix("eval_") not in known:
        raise UsageError(f"--metric_for_best_model got {name!r}; the metrics of this run are {', '.join(known)}")


def refuse_liger(job: Job, model: nn.Module) -> None:
    """Raise if kernels are asked for that there are not for this model; the library would train without them.

    Raises:
        UsageError: the text names the type of the model.
    """
    if not job.run.use_liger_kernel:
        return
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as known

    for part in adapted_parts(model).values():
        kind = part.get_base_model().config.model_type
        if kind not in known:
            raise UsageError(f"--use_liger_kernel has no kernels for models of the type {kind!r}; leave it out")
