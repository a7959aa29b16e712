"""`PairModel`: what the contrastive models share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modality.losses.objective import ContrastiveObjective
from modality.models.saving import SavedModel
from modality.temperature.module import Temperature


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

    def settings(self) -> dict[str, Any]:
        temperature = None if self.temperature is None else self.temperature.settings()
        return {"chunk_size": self.chunk_size, "temperature": temperature, **self.objective.settings()}

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], settings: dict[str, Any]) -> PairModel:
        temperature = None if settings["temperature"] is None else Temperature(**settings["temperature"])
        return cls(**parts, **(settings | {"temperature": temperature}))
