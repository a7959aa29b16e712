"""`ContrastiveObjective`: from embeddings to a loss, with swapping and gathering."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from modality.losses.contrastive import Duplicates, check_duplicates, contrastive_loss, sigmoid_loss
from modality.losses.gather import world_size_of
from modality.output import ContrastiveOutput
from modality.rows import at_least_float32, products, unit_rows
from modality.swapping.swap import SwapRule, apply_swap

Loss = Literal["contrastive", "sigmoid"]
INITIAL_TAU: dict[Loss, float] = {"contrastive": 0.07, "sigmoid": 0.1}  # tau of CLIP and of SigLIP before training


class ContrastiveObjective(nn.Module):
    """The loss of a batch of embeddings, after an optional swap between modalities, over all ranks.

    It counts the training batches that came with a swap rule. The count is part of its state dict, so a run resumed
    from any checkpoint of the model draws what an uninterrupted one would have drawn.

    Args:
        loss: "contrastive" (symmetric InfoNCE) or "sigmoid" (SigLIP).
        gather: contrast with the rows of all ranks.
        block_size: see `contrastive_loss`.
        duplicates, label_smoothing: see `contrastive_loss`; the sigmoid loss has no label smoothing.
        normalize: normalize the embeddings; False is a control without normalization.

    Raises:
        ValueError: for another loss, or an option that it does not have.

    >>> objective = ContrastiveObjective()
    >>> round(objective(torch.eye(2), torch.eye(2), 1.0).loss.item(), 4)
    0.3133
    """

    def __init__(
        self,
        loss: Loss = "contrastive",
        *,
        gather: bool = True,
        block_size: int | None = None,
        duplicates: Duplicates = "share",
        label_smoothing: float = 0.0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        check_loss(loss, label_smoothing)
        check_duplicates(duplicates)
        self.loss, self.gather, self.block_size = loss, gather, block_size
        self.duplicates, self.label_smoothing, self.normalize = duplicates, label_smoothing, normalize
        self.swap_steps = 0

    def forward(
        self,
        x: Float[Tensor, "n d"],
        y: Float[Tensor, "n d"],
        inverse_temperature: float | Tensor,
        bias: float | Tensor = 0.0,
        *,
        ids: Int[Tensor, " n"] | None = None,
        modality_swap: Int[Tensor, "n 5"] | None = None,
        with_loss: bool = True,
        with_logits: bool = True,
    ) -> ContrastiveOutput:
        """Compute a `ContrastiveOutput`; `bias` is added to the logits, `modality_swap` acts in training only."""
        x, y = (unit_rows(x), unit_rows(y)) if self.normalize else (at_least_float32(x), at_least_float32(y))
        logits = inverse_temperature * products(x, y.mT) + bias if with_logits else None
        if not with_loss:
            return ContrastiveOutput(None, logits, x, y)
        swapped = self._swapped(x, y, modality_swap)
        return ContrastiveOutput(self._loss(*swapped, inverse_temperature, bias, ids), logits, x, y)

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments, except for `normalize` and `block_size`."""
        return {
            "loss": self.loss, "gather": self.gather, "duplicates": self.duplicates,
            "label_smoothing": self.label_smoothing,
        }  # fmt: skip

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.swap_steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.swap_steps = int(state)

    def extra_repr(self) -> str:
        return f"loss={self.loss!r}, gather={self.gather}"

    def _swapped(self, x: Tensor, y: Tensor, modality_swap: Tensor | None) -> tuple[Tensor, Tensor]:
        if modality_swap is None or not self.training:
            return x, y
        step, self.swap_steps = self.swap_steps, self.swap_steps + 1
        if len(x) == 0:  # this rank has no rows, others may
            return x, y
        rank = dist.get_rank() if world_size_of() > 1 else 0
        return apply_swap(x, y, SwapRule.decode(modality_swap), step, rank)

    def _loss(
        self, x: Tensor, y: Tensor, inverse_temperature: float | Tensor, bias: float | Tensor, ids: Tensor | None
    ) -> Tensor:
        gather = self.gather and world_size_of() > 1
        if self.loss == "sigmoid":
            return sigmoid_loss(
                x, y, inverse_temperature, bias,
                ids=ids, duplicates=self.duplicates, normalize=False, gather=gather, block_size=self.block_size,
            )  # fmt: skip
        return contrastive_loss(
            x, y, inverse_temperature,
            ids=ids, duplicates=self.duplicates, label_smoothing=self.label_smoothing, normalize=False, gather=gather,
            block_size=self.block_size,
        )  # fmt: skip


def new_bias(loss: Loss) -> nn.Parameter | None:
    """Return the bias that SigLIP starts from, to be trained; only the sigmoid loss has one."""
    return nn.Parameter(torch.tensor(-10.0)) if loss == "sigmoid" else None


def check_loss(loss: str, label_smoothing: float) -> None:
    """Raise unless this is a loss, with label smoothing only if it has that.

    Raises:
        ValueError: if not.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"`loss` must be 'contrastive' or 'sigmoid', got {loss!r}")
    if loss == "sigmoid" and label_smoothing:
        raise ValueError("the sigmoid loss has no label smoothing; leave `label_smoothing` at 0")
