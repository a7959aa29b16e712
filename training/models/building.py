"""The model of a job: a pretrained base, its new head and the adapter."""

from __future__ import annotations

from peft import PeftModel

from collapse import normalize_classifier_
from training.errors import UsageError
from training.job import Job
from training.models.adapters import adapter_config, add_adapter, require_layers
from training.models.loading import load_base, prepare_base, quantization_config
from training.models.precision import train_in_full_precision


def build_adapted(job: Job) -> PeftModel:
    """Build the base model with its new head and the adapter.

    Raises:
        UsageError: the model cannot be loaded, or the adapter does not fit it.
    """
    base = load_base(job.model, job.task, job.token)
    if job.head.normalized_head:
        try:
            normalize_classifier_(base.model, job.head.head_scale)
        except ValueError as error:
            raise UsageError(f"--normalized_head: {error}") from error
    require_layers(job.adapter, base.model)
    config = adapter_config(job.adapter, job.task.peft_task, base)
    prepared = prepare_base(
        base,
        job.processor,
        quantized=quantization_config(job.model) is not None,
        checkpointing=bool(job.run.gradient_checkpointing),
    )
    model = add_adapter(prepared, config)
    train_in_full_precision(model)
    return model
