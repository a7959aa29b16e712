"""Replace the classification head of a transformers model by a normalized one, in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from collapse.classifier import MarginKind, NormalizedClassifier, SimplexClassifier
from collapse.classifier.margins import check_margin
from collapse.classifier.normalized import check_has_classes
from collapse.heads.finding import Head, LinearHead, base_model_of, find_head
from collapse.heads.hooks import register_hooks

CONFIG_KEY = "normalized_classifier"
SCALE_KEY, LEARNABLE_KEY = "temperature", "learnable_temperature"  # as saved configurations have them


def normalize_classifier_(
    model: nn.Module,
    scale: float | None = None,
    learnable_scale: bool = False,
    head: str | None = None,
    *,
    margin: float | None = None,
    margin_kind: MarginKind = "cosface",
    simplex: bool = False,
) -> NormalizedClassifier:
    """Replace the last linear layer of a classification model by a `NormalizedClassifier`, in place.

    Everything before it (pooling, dropout, inner layers of the head) and after it (label mapping, loss) stays. The new
    head keeps the directions of the class vectors and has no bias. Call this before or after `get_peft_model`; if
    after, every adapter's copy in `modules_to_save` is replaced too. PEFT finds heads called `classifier` or `score` by
    itself, but not other new layers, such as BART's dense one: pass `modules_to_save=find_head(model).modules_to_save`.
    A first training batch without them brings an error if no checkpoint had them, a warning if that is not known.

    The settings are kept in `model.config`, so a saved model comes back with `load_normalized_classifier(path)`. Under
    PEFT, normalize the base model with the same settings before `PeftModel.from_pretrained`.

    Args:
        model: any `*ForSequenceClassification`, `*ForTokenClassification`, `*ForImageClassification`, ..., or a module
            with `head` given.
        scale: of the cosines; None takes the value in `model.config`, if any, or else `scale_for_loss(num_labels)`.
        learnable_scale: see `NormalizedClassifier`.
        head: its name, or that of its last layer, if `find_head` needs it.
        margin: of the model's own loss in training (CosFace, ArcFace). None takes `model.config`'s, if any, or else 0.
        margin_kind: "cosface" subtracts it from the cosine, "arcface" adds it to the angle; see `with_margin`.
        simplex: make the head a `SimplexClassifier`, whose class vectors are fixed.

    Returns:
        The new head in use (that of the active adapter).

    Raises:
        ValueError: for regression, multi-label and question-answering models, a head that is already normalized or
            quantized, or none; a margin out of range, or of a module without a loss; a simplex that does not fit.
            The model raises a TypeError for labels that are not integers, a ValueError for a margin without labels.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    >>> model = BertForSequenceClassification(config)
    >>> normalize_classifier_(model, scale=6.0)
    NormalizedClassifier(4, 3, scale=6)
    """
    base = base_model_of(model)
    config = getattr(base, "config", None)
    check_has_classes(base)
    found = find_head(model, head)
    settings = _settings(config, scale, learnable_scale, margin, margin_kind, simplex) | {"head": found.layer}
    if settings.get("margin") and config is None:
        raise ValueError(
            f"a margin is part of the loss, and {type(base).__name__} is not a transformers model that computes one; "
            "put `NormalizedClassifier(..., margin=...)` into it and call that with features and labels"
        )
    heads = _replaced(base, found, settings)
    if config is not None:
        setattr(config, CONFIG_KEY, settings | {SCALE_KEY: heads[0][1].initial_scale})
    register_hooks(base, found.layer, settings.get("margin", 0.0), settings.get("margin_kind", "cosface"))
    return _in_use(base, heads)


def _check_replaceable(name: str, old: LinearHead) -> None:
    if isinstance(old, NormalizedClassifier):
        raise ValueError(
            f"the classifier {name!r} is already normalized; fill its `base_temperature` to change the scale"
        )
    if not old.weight.is_floating_point() or old.weight.shape != (old.out_features, old.in_features):
        raise ValueError(
            f"the classifier {name!r} is a {type(old).__name__} with {old.weight.dtype} weights; keep the head out of "
            "quantization (for bitsandbytes: `llm_int8_skip_modules`)"
        )


def _replaced(base: nn.Module, found: Head, settings: dict[str, Any]) -> list[tuple[str, NormalizedClassifier]]:
    """Replace every copy of the head, or none if one cannot be."""
    for old in found.copies.values():
        _check_replaceable(found.layer, old)
    heads = []
    for path, old in found.copies.items():
        new = _normalized(old, settings)
        parent, _, attribute = path.rpartition(".")
        setattr(base.get_submodule(parent), attribute, new)
        heads.append((path, new))
    return heads


def _settings(
    config: Any, scale: float | None, learnable: bool, margin: float | None, margin_kind: MarginKind, simplex: bool
) -> dict[str, Any]:
    """Return what was asked for, or else what the configuration has, or else the defaults, which it does not name."""
    settings: dict[str, Any] = {SCALE_KEY: None, LEARNABLE_KEY: False} | dict(getattr(config, CONFIG_KEY, None) or {})
    if scale is not None:
        settings[SCALE_KEY] = scale
    if learnable:
        settings[LEARNABLE_KEY] = True
    if simplex:
        settings["simplex"] = True
    check_margin(0.0 if margin is None else margin, margin_kind)
    if margin is not None:
        settings |= {"margin": margin, "margin_kind": margin_kind}
    return settings if settings.get("margin") else {k: v for k, v in settings.items() if not k.startswith("margin")}


@torch.no_grad()
def _normalized(old: LinearHead, settings: dict[str, Any]) -> NormalizedClassifier:
    """Make a normalized head with the directions, dtype, device and training state of a linear layer."""
    kind = SimplexClassifier if settings.get("simplex") else NormalizedClassifier
    new = kind(
        old.in_features, old.out_features, settings[SCALE_KEY], settings[LEARNABLE_KEY],
        device=old.weight.device, dtype=old.weight.dtype,
    )  # fmt: skip
    new.weight.copy_(new.starting_vectors(old.weight))
    new.requires_grad_(old.weight.requires_grad)
    return new.train(old.training)


def _in_use(base: nn.Module, heads: list[tuple[str, NormalizedClassifier]]) -> NormalizedClassifier:
    """Return the copy that the active adapter uses, or else the first copy."""
    for path, module in heads:
        wrapper, _, rest = path.partition(".modules_to_save.")
        if rest and rest.split(".")[0] in getattr(base.get_submodule(wrapper), "active_adapters", ()):
            return module
    return heads[0][1]
