"""`ContrastivePairsLoss`: the losses of this package, with any temperature, as a loss of sentence-transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modality.losses import Direction, Loss, contrastive_loss, sigmoid_loss
from modality.losses.contrastive import check_direction
from modality.losses.objective import INITIAL_TAU, check_loss, new_bias
from modality.temperature import Temperature


class ContrastivePairsLoss(nn.Module):
    """Symmetric InfoNCE or the sigmoid loss of (anchor, positive) columns, for `SentenceTransformerTrainer`.

    Further columns are hard negatives of the second one's kind; with InfoNCE every anchor is pushed away from all of
    them. It differs from `MultipleNegativesRankingLoss` in its temperature, which may be learned in any way or follow a
    schedule:

        loss = ContrastivePairsLoss(model, Temperature(0.05, mode="scheduled"))
        schedule = TemperatureScheduleCallback(LinearSchedule(0.05, 0.2), module=loss)
        SentenceTransformerTrainer(model, args, train_dataset=pairs, loss=loss, callbacks=[schedule]).train()

    Args:
        model: the `SentenceTransformer` that is trained, or any module from features to `sentence_embedding`.
        temperature: None learns one from 0.07 (0.1 for the sigmoid loss).
        loss: "contrastive" or "sigmoid", which has a bias that starts at -10 and takes no negatives.
        direction: "both", or "x_to_y" to contrast anchors with positives alone.
        label_smoothing, gather, block_size: see `contrastive_loss`; `gather` needs several processes.

    Raises:
        ValueError: for settings that do not fit together, or (when called) for fewer than two columns.

    >>> def encode(features): return {"sentence_embedding": features["rows"]}
    >>> loss = ContrastivePairsLoss(encode, Temperature(1.0))
    >>> round(loss([{"rows": torch.eye(2)}, {"rows": torch.eye(2)}]).item(), 4)
    0.3133
    """

    def __init__(
        self,
        model: Any,
        temperature: Temperature | None = None,
        loss: Loss = "contrastive",
        *,
        direction: Direction = "both",
        label_smoothing: float = 0.0,
        gather: bool = True,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        check_direction(direction)
        check_loss(loss, label_smoothing)
        if loss == "sigmoid" and direction != "both":
            raise ValueError("the sigmoid loss has no directions: it judges each pair by itself; leave `direction` out")
        self.model, self.direction, self.label_smoothing = model, direction, label_smoothing
        self.gather, self.block_size = gather, block_size
        self.temperature = Temperature(INITIAL_TAU[loss], mode="learnable") if temperature is None else temperature
        self.logit_bias = new_bias(loss)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Float[Tensor, ""]:
        """Compute the loss of the columns of a batch."""
        columns = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(columns, labels)

    def compute_loss_from_embeddings(
        self, embeddings: list[Float[Tensor, "n d"]], labels: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Compute the loss of embeddings, one matrix for each column."""
        if len(embeddings) < 2:
            raise ValueError(
                f"a contrastive loss needs the columns anchor and positive, got {len(embeddings)} columns of text or "
                "images; a column called `label` or `score` does not count"
            )
        x, y, *others = embeddings
        if self.logit_bias is None:
            return contrastive_loss(
                x, y, self.temperature(), negatives=torch.cat(others) if others else None, direction=self.direction,
                label_smoothing=self.label_smoothing, gather=self.gather, block_size=self.block_size,
            )  # fmt: skip
        if others:
            raise ValueError(
                f"the sigmoid loss takes anchor and positive, got {len(embeddings)} columns; hard negatives need "
                "loss='contrastive'"
            )
        return sigmoid_loss(x, y, self.temperature(), self.logit_bias, gather=self.gather, block_size=self.block_size)

    def get_config_dict(self) -> dict[str, Any]:
        """Return what sentence-transformers writes into a model card."""
        return {
            "loss": "contrastive" if self.logit_bias is None else "sigmoid", "direction": self.direction,
            "label_smoothing": self.label_smoothing, "gather": self.gather, "temperature": self.temperature.settings(),
        }  # fmt: skip
