"""`NormalizedClassifier`: a linear classifier on the sphere, and which models and labels can have one."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from collapse.classifier.margins import MarginKind, check_margin, with_margin
from collapse.scale import attainable_loss, scale_for_loss
from collapse.sphere import unit_rows


def normalized_logits(
    features: Float[Tensor, "*batch d"], weight: Float[Tensor, "K d"], scale: float | Tensor
) -> Float[Tensor, "*batch K"]:
    """Compute the logits `scale * cos(h, w_k)` of features and class vectors.

    Source: Yaras et al., NeurIPS 2022, the normalized model; NormFace (Wang et al., 2017).

    >>> normalized_logits(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, -1.0]]), 10.0)
    tensor([[ 6., -8.]])
    """
    rows, vectors = unit_rows(features), unit_rows(weight)
    common = torch.promote_types(rows.dtype, vectors.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        return scale * (rows.to(common) @ vectors.to(common).mT)


class NormalizedClassifier(nn.Module):
    """A drop-in for the last `nn.Linear`: features and class vectors on the unit sphere, logits `scale * cos(h, w_k)`.

    The projection is part of the forward pass, so the gradient of a unit row is its Riemannian gradient. With
    `SphereRetractionCallback` the stored rows also return to the sphere after each step, and the step size keeps its
    meaning; without it their norms grow and the effective learning rate falls. There is no bias.

    Args:
        in_features: d. A simplex ETF needs d >= K - 1.
        num_classes: K, at least 2.
        scale: positive, *multiplies* the cosines (tau in the paper). None takes `scale_for_loss(K)`, about log K + 4.6:
            a loss of 0.01 is then attainable. At a scale of 1 it is not: see `attainable_loss`.
        learnable_scale: learn `log(scale / initial scale)`, one more parameter that starts at 0. A head that loads a
            saved one learns it if and only if the saved one did.
        margin: subtracted from the own class's logit in training when labels are passed; see `with_margin`.
        margin_kind: "cosface" subtracts it from the cosine, "arcface" adds it to the angle.

    Shape:
        features (..., d), optional labels (...) -> logits (..., K), float32 for half precision.

    Raises:
        ValueError: for sizes, scale or margin out of range.

    >>> head = NormalizedClassifier(8, 4, scale=5.0)
    >>> bool(head(torch.randn(3, 8)).abs().max() <= 5.0001)
    True
    """

    base_temperature: Tensor
    log_temperature_ratio: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        scale: float | None = None,
        learnable_scale: bool = False,
        margin: float = 0.0,
        *,
        margin_kind: MarginKind = "cosface",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(in_features, bool) or not isinstance(in_features, int) or in_features < 1:
            raise ValueError(f"`in_features` must be a positive integer, got {in_features!r}")
        if scale is None:
            scale = scale_for_loss(num_classes)
        _check_classifier(num_classes, scale)
        check_margin(margin, margin_kind)
        _warn_of_small_scale(num_classes, scale)
        self.in_features, self.out_features = in_features, num_classes
        self.margin, self.margin_kind, self.initial_scale = float(margin), margin_kind, float(scale)
        self.weight = nn.Parameter(torch.empty(num_classes, in_features, device=device, dtype=dtype))
        self.register_buffer("base_temperature", torch.empty((), device=device, dtype=dtype))
        ratio = nn.Parameter(torch.empty((), device=device, dtype=dtype)) if learnable_scale else None
        self.register_parameter("log_temperature_ratio", ratio)
        self.reset_parameters()

    @property
    def scale(self) -> Tensor:
        """The current scale, `base_temperature * exp(log_temperature_ratio)`, at least in float32."""
        base = self.base_temperature if self.base_temperature.dtype == torch.float64 else self.base_temperature.float()
        return base if self.log_temperature_ratio is None else base * self.log_temperature_ratio.to(base).exp()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw class vectors uniformly from the sphere, and reset the scale."""
        self.weight.copy_(self.random_vectors())
        self.base_temperature.fill_(self.initial_scale)
        if self.log_temperature_ratio is not None:
            self.log_temperature_ratio.zero_()

    def random_vectors(self) -> Float[Tensor, "K d"]:
        """Draw new rows uniformly from the sphere."""
        return unit_rows(torch.randn_like(self.weight, dtype=torch.float32))

    @torch.no_grad()
    def starting_vectors(self, previous: Float[Tensor, "K d"]) -> Float[Tensor, "K d"]:
        """Return unit rows with the directions of another head; a zero row has none, and keeps its own."""
        kept = previous.norm(dim=1, keepdim=True) > 0
        return unit_rows(torch.where(kept, previous.to(self.weight), self.weight))

    def class_vectors(self) -> Float[Tensor, "K d"]:
        """Return the class vectors on the unit sphere, for metrics."""
        return unit_rows(self.weight)

    def forward(
        self, features: Float[Tensor, "*batch d"], labels: Int[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch K"]:
        scale = self.scale
        logits = normalized_logits(features, self.weight, scale)
        if labels is None or self.margin == 0 or not self.training:
            return logits
        return with_margin(logits, labels, scale, self.margin, self.margin_kind)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Learn the scale if and only if the saved head did, so that it is the saved one in either case."""
        name = f"{prefix}log_temperature_ratio"
        if name in state_dict and self.log_temperature_ratio is None:
            start = torch.zeros_like(self.base_temperature)
            learns = self.weight.requires_grad or not isinstance(self.weight, nn.Parameter)  # a simplex is a buffer
            self.log_temperature_ratio = nn.Parameter(start, requires_grad=learns)
        elif f"{prefix}weight" in state_dict and self.log_temperature_ratio is not None:
            state_dict.setdefault(name, torch.zeros_like(state_dict[f"{prefix}weight"][0, 0]))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Leave out a learned scale that still has its initial value.

        PEFT asks the copy that it trains, before it loads, what a file has to hold; that of a fixed scale has none. A
        model's own state has it all the same, see `normalize_classifier_`.
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        ratio = self.log_temperature_ratio
        if ratio is not None and (ratio.is_meta or ratio.item() == 0):
            del destination[f"{prefix}log_temperature_ratio"]

    def extra_repr(self) -> str:
        scale = "on meta" if self.base_temperature.is_meta else f"{self.scale.item():.4g}"
        learnable = ", learnable_scale=True" if self.log_temperature_ratio is not None else ""
        margin = f", margin={self.margin}, margin_kind={self.margin_kind!r}" if self.margin else ""
        return f"{self.in_features}, {self.out_features}, scale={scale}{learnable}{margin}"


def check_has_classes(model: nn.Module) -> None:
    """Raise if a model's configuration or forward pass shows that its head has no classes.

    Multi-label models whose `problem_type` is not set cannot be told from others before their labels come; see
    `check_labels`.

    Raises:
        ValueError: for regression, multi-label classification and question answering.

    >>> check_has_classes(nn.Linear(2, 2))
    """
    config: Any = getattr(model, "config", None)
    problem, num_labels = getattr(config, "problem_type", None), getattr(config, "num_labels", 2)
    if "start_positions" in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{type(model).__name__} answers questions: its head scores every token as the start or end of a span, and "
            "has no classes to put on a sphere; take a model that classifies sequences, tokens or images"
        )
    if problem == "regression" or num_labels == 1:
        raise ValueError(
            f"a regression model has no classes to put on a sphere, got num_labels={num_labels} and "
            f"problem_type={problem!r}; set `num_labels` to the number of classes (2 for yes or no)"
        )
    if problem == "multi_label_classification":
        raise ValueError(
            "cosines cannot say how likely each of several labels is: a normalized head, and neural collapse, need one "
            "label for each sample, got problem_type='multi_label_classification'"
        )


def check_labels(labels: Any) -> None:
    """Raise if a batch has labels that are not classes.

    Raises:
        TypeError: for numbers (regression) and several labels for a sample, which transformers takes to be multi-label.

    >>> check_labels(torch.tensor([0, 2]))
    """
    if isinstance(labels, Tensor) and labels.is_floating_point() and labels.dim() < 3:
        raise TypeError(
            f"a normalized head needs one integer label for each sample, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}; regression and multi-label targets have no classes"
        )


def _check_classifier(num_classes: int, scale: float) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(
            f"`num_classes` must be an integer of at least 2, got {num_classes!r}; one class is regression"
        )
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ValueError(
            f"`scale` must be positive and finite, it multiplies the cosines, got {scale!r}; "
            f"{scale_for_loss(num_classes):.3g} suits {num_classes} classes"
        )


def _warn_of_small_scale(num_classes: int, scale: float) -> None:
    if scale < 0.5:
        warnings.warn(
            f"`scale={scale}` multiplies the cosines, so the loss is above {attainable_loss(num_classes, scale):.3g} "
            f"where guessing has {math.log(num_classes):.3g}; for a temperature that divides them, as in CLIP, pass "
            f"its inverse, here {1 / scale:.3g}",
            stacklevel=3,
        )
