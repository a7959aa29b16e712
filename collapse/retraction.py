"""Put class vectors back onto the sphere after each optimizer step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from collapse.classifier import NormalizedClassifier
from collapse.sphere import unit_rows


@torch.no_grad()
def retract_(model: nn.Module) -> int:
    """Normalize the rows of every `NormalizedClassifier` in the model, in place, and count these classifiers.

    The projection is a retraction of the sphere, and the forward pass gives tangent gradients, so a plain SGD step
    followed by this is Riemannian gradient descent. Zero rows stay zero. Call it after `optimizer.step()`.

    >>> head = NormalizedClassifier(3, 2)
    >>> _ = nn.init.constant_(head.weight, 2.0)
    >>> retract_(head), head.weight.norm(dim=1).sum().round().item()
    (1, 2.0)
    """
    heads = [module for module in model.modules() if isinstance(module, NormalizedClassifier)]
    for head in heads:
        head.weight.copy_(unit_rows(head.weight))
    return len(heads)


class SphereRetractionCallback(TrainerCallback):
    """Call `retract_` after each optimizer step of a Trainer.

    Source: Yaras et al., NeurIPS 2022, whose code renormalizes the classifier rows after each step.

    Raises:
        ValueError: at the start of training, if the model has no `NormalizedClassifier`.

    >>> isinstance(SphereRetractionCallback(), TrainerCallback)
    True
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is None or retract_(model) == 0:
            raise ValueError(
                "there is no NormalizedClassifier to keep on the sphere; call `normalize_classifier_(model)` "
                "before training"
            )

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None:
            retract_(model)
