"""The model of a contrastive run: a CLIP-like one, or two towers, with adapters."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from modality import ContrastiveModel, DualEncoder
from modality.models import output_mask, tower_features
from training.errors import UsageError
from training.job import Job
from training.models.adapters import adapter_config, add_adapter, own_parameters, require_layers
from training.models.loading import Base, load_base, prepare_base, quantization_config
from training.models.precision import train_in_full_precision
from training.pairs.method import make_temperature
from training.pairs.processor import X, Y, tower_names

IMAGE_PARTS, TEXT_PARTS = ("vis", "image"), ("text",)


def build_contrastive(job: Job) -> ContrastiveModel | DualEncoder:
    """Build the model with its adapters, temperature and loss.

    Raises:
        UsageError: a model cannot be loaded or is of another kind, or the options leave nothing to train.
    """
    try:
        model = _joint_model(job) if job.processor.joint else _two_towers(job)
    except UsageError:
        raise
    except ValueError as error:  # settings that the packages below refuse
        raise UsageError(f"the contrastive model cannot be set up: {error}") from error
    train_in_full_precision(model)
    own = {name for name in own_parameters(model) if not name.startswith("temperature.")}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not own and trained <= set(own_parameters(model)):
        raise UsageError("everything is frozen and there is no projection to train; freeze one side at most")
    return model


def _joint_model(job: Job) -> ContrastiveModel:
    base = load_base(job.model, job.task, job.token)
    model: Any = base.model
    sides = [
        [name for name, _ in model.named_children() if name.startswith(kind)] for kind in (IMAGE_PARTS, TEXT_PARTS)
    ]
    if not all(sides) or not hasattr(model, "get_image_features"):
        raise UsageError(
            f"{job.model.model} is a {type(model).__name__}, not a model of images and texts; pass a CLIP-like "
            "--model, or --text_model and --image_model"
        )
    settings: Any = job.model
    if settings.freeze_image and settings.freeze_text:
        raise UsageError("--freeze_image and --freeze_text leave nothing of the model to adapt; pass one of them")
    frozen = [name for names, off in zip(sides, (settings.freeze_image, settings.freeze_text), strict=True)
              if off for name in names]  # fmt: skip
    scale = getattr(model, "logit_scale", None)
    own = None if scale is None else math.exp(-scale.float().item())
    require_layers(job.adapter, model)
    adapted = _adapted(job, base, frozen)
    return ContrastiveModel(adapted, temperature=make_temperature(job.method, own), **_objective(job))


def _two_towers(job: Job) -> DualEncoder:
    settings: Any = job.model
    data: Any = job.data
    texts = bool(data.second_text_column)
    frozen = (settings.freeze_text, settings.freeze_second_text) if texts else (
        settings.freeze_image, settings.freeze_text)  # fmt: skip
    pooling = (settings.text_pooling if texts else settings.image_pooling, settings.text_pooling)
    names: Any = tower_names(settings, data)
    towers = [_tower(job, *options) for options in zip(names, frozen, pooling, strict=True)]
    require_layers(job.adapter, *towers)
    widths = _widths(job, towers, pooling)
    width = widths[0] if settings.projection == "none" else settings.embedding_width
    return DualEncoder(
        *towers, x_width=widths[0], y_width=widths[1], width=width, projection=settings.projection,
        x_pooling=pooling[0], y_pooling=pooling[1], temperature=make_temperature(job.method, None), **_objective(job),
    )  # fmt: skip


def _objective(job: Job) -> dict[str, Any]:
    method = job.method
    return {"loss": method.loss, "chunk_size": method.chunk_size, "label_smoothing": method.label_smoothing}


def _tower(job: Job, name: str, frozen: bool, pooling: str) -> nn.Module:
    base = load_base(replace(job.model, model=name), job.task, job.token)
    if frozen:
        return base.model.requires_grad_(False)
    unused = [] if pooling == "pooler" else ["pooler"]
    new = [module for module in base.new_modules if module not in unused]
    return _adapted(job, Base(base.model, new), unused)


def _adapted(job: Job, base: Base, left_alone: list[str]) -> PeftModel:
    """Return the model with an adapter everywhere but in some modules, and where no adapter can act."""
    # torch's attention reads the weight of its last layer without calling the layer.
    attentions = [name for name, module in base.model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    layers = _layers_inside(base.model, [*left_alone, *attentions])
    excluded = [*(job.adapter.exclude_modules or []), *layers] or None
    adapter: Any = replace(job.adapter, exclude_modules=excluded)  # type: ignore[call-arg]  # a field made of a config
    config: Any = adapter_config(adapter, None, base)
    if job.adapter.adapter_config and layers:
        if not hasattr(config, "exclude_modules") or config.exclude_modules:
            raise UsageError(
                f"--adapter_config: its exclude_modules would have to name {', '.join(layers[:3])}, ...; leave the "
                "field out, or pass no --freeze options"
            )
        config.exclude_modules = layers
    quantized = quantization_config(job.model) is not None
    checkpointing = bool(job.run.gradient_checkpointing)
    return add_adapter(prepare_base(base, None, quantized=quantized, checkpointing=checkpointing), config)


def _layers_inside(model: nn.Module, names: list[str]) -> list[str]:
    """Return the layers with weights that are, or lie inside, the modules of these names."""
    return [
        path
        for path, module in model.named_modules()
        if any(path == name or path.startswith(name + ".") for name in names)
        and any(True for _ in module.parameters(recurse=False))
    ]


@torch.no_grad()
def _widths(job: Job, towers: list[nn.Module], pooling: tuple[str, str]) -> list[int]:
    """Return how many features each tower has, measured on the first pair."""
    first = {"train": job.task.splits["train"].select([0])}
    batch = job.processor(list(job.task.encode(first, job.processor)["train"]))
    widths = []
    for tower, key, kind in zip(towers, (X, Y), pooling, strict=True):
        device = next(tower.parameters()).device
        inputs = {name: value.to(device) for name, value in batch[key].items()}
        training = tower.training
        try:
            output = tower.eval()(**inputs)
            widths.append(tower_features(output, kind, output_mask(tower, inputs, output)).shape[1])  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"a tower does not accept the pairs ({type(tower).__name__}): {error}") from error
        finally:
            tower.train(training)
    return widths
