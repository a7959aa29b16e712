"""`PairModel`: what the contrastive models share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from modality.losses.objective import ContrastiveObjective
from modality.models.saving import SavedModel
from modality.temperature.module import Temperature, keep_float32_


class PairModel(SavedModel):
    """A model of pairs with an objective, and with the scale and bias of its logits.

    `model.objective(x, y, model.inverse_temperature(), model.bias())` is the loss of any embeddings x and y.

    Attributes:
        objective: from embeddings to a loss.
        chunk_size: pairs whose activations are in memory at a time, or None.
        temperature: of the logits; None if a part holds it.
        logit_bias: of the sigmoid loss; None without one, or if a part holds it.
    """

    accepts_loss_kwargs = False  # for Trainer: further inputs are the model's
    objective: ContrastiveObjective
    chunk_size: int | None
    temperature: Temperature | None
    logit_bias: nn.Parameter | None

    def inverse_temperature(self) -> Tensor:
        """Return 1 / tau, which multiplies the cosines."""
        raise NotImplementedError

    def bias(self) -> float | Tensor:
        """Return what is added to the logits; 0 unless the loss is the sigmoid loss."""
        raise NotImplementedError

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Enable it in every part that can, for chunks never the reentrant kind, which they cannot differentiate."""
        super().activation_checkpointing_enable(self._for_chunks(activation_checkpointing_kwargs), **options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Do the same under its older name."""
        super().gradient_checkpointing_enable(self._for_chunks(gradient_checkpointing_kwargs), **options)

    def scalars(self) -> list[Tensor]:
        """Return scales and biases of the logits that stay in float32: half precision swallows their steps."""
        return [] if self.logit_bias is None else [self.logit_bias]

    def settings(self) -> dict[str, Any]:
        temperature = None if self.temperature is None else self.temperature.settings()
        return {"chunk_size": self.chunk_size, "temperature": temperature, **self.objective.settings()}

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], settings: dict[str, Any]) -> PairModel:
        temperature = None if settings["temperature"] is None else Temperature(**settings["temperature"])
        return cls(**parts, **(settings | {"temperature": temperature}))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PairModel:
        before = [scalar.detach().clone() for scalar in self.scalars()]
        super()._apply(fn, recurse)
        for scalar, exact in zip(self.scalars(), before, strict=True):
            keep_float32_(scalar, exact)
        return self

    def _for_chunks(self, settings: dict[str, Any] | None) -> dict[str, Any] | None:
        if self.chunk_size is None:
            return settings
        if settings and settings.get("use_reentrant"):
            warnings.warn(
                "chunks cannot differentiate reentrant checkpointing; `use_reentrant=False` is used instead, with the "
                "same gradients",
                stacklevel=3,
            )
        return {**(settings or {}), "use_reentrant": False}
