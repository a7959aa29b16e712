"""`DualEncoder`: any two towers, projected to one space and trained on pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from modality.losses.chunks import encode_in_chunks
from modality.losses.contrastive import Duplicates
from modality.losses.objective import INITIAL_TAU, ContrastiveObjective, Loss, new_bias
from modality.models.base import PairModel
from modality.models.pooling import Pooling, output_mask, tower_features
from modality.output import ContrastiveOutput
from modality.temperature.finding import base_model_of
from modality.temperature.module import Temperature

Projection = Literal["linear", "mlp", "none"]
TowerInput = Tensor | Mapping[str, Any]


class DualEncoder(PairModel, library_name="deep-lora", tags=["modality", "contrastive"]):
    """Two towers, a projection for each, a temperature and a loss.

        x_embeds = unit_rows(x_projection(x_tower(x))),   y likewise

    A tower is a transformers model, a PEFT model, any `nn.Module` that returns vectors, tokens or feature maps, or
    `nn.Identity()` for precomputed features. Freeze one with `tower.requires_grad_(False)`. One module may be both
    towers, and is still one module after saving and loading.

    A batch is `{"x": ..., "y": ...}`, each a tensor or a mapping of the tower's keyword arguments, with two optional
    keys: `ids`, one integer for each pair that marks duplicates, and `modality_swap`, from a `ModalitySwapCollator`.

    Args:
        x_tower, y_tower: see above.
        x_width, y_width: how many features each returns.
        width: of the common space.
        temperature: learned from 0.07 by default (0.1 for "sigmoid").
        projection: "linear" (without bias, as in CLIP), "mlp" (two layers) or "none" (all widths must agree).
        x_pooling, y_pooling: how several vectors become one; see `tower_features`.
        loss, gather, chunk_size, duplicates, label_smoothing: see `ContrastiveModel`.
        normalize: normalize the embeddings; False is a control without normalization.

    Raises:
        ValueError: for invalid settings, or if one tower is the other one adapted by PEFT.

    >>> import torch
    >>> model = DualEncoder(nn.Identity(), nn.Linear(5, 6), x_width=4, y_width=6, width=3)
    >>> model(torch.randn(2, 4), torch.randn(2, 5)).x_embeds.shape
    torch.Size([2, 3])
    """

    temperature: Temperature

    def __init__(
        self,
        x_tower: nn.Module,
        y_tower: nn.Module,
        *,
        x_width: int,
        y_width: int,
        width: int = 256,
        temperature: Temperature | None = None,
        projection: Projection = "linear",
        x_pooling: Pooling = "mean",
        y_pooling: Pooling = "mean",
        loss: Loss = "contrastive",
        gather: bool = True,
        chunk_size: int | None = None,
        duplicates: Duplicates = "share",
        label_smoothing: float = 0.0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if x_tower is not y_tower and base_model_of(x_tower) is base_model_of(y_tower):
            raise ValueError(
                "one tower is the base model of the other, and PEFT adapts it in place: both would use the adapter; "
                "pass the adapted model twice, or adapt a `copy.deepcopy` of the plain one"
            )
        self.x_tower, self.y_tower = x_tower, y_tower
        self.x_projection = make_projection(projection, x_width, width)
        self.y_projection = make_projection(projection, y_width, width)
        self.objective = ContrastiveObjective(
            loss, gather=gather, block_size=chunk_size, duplicates=duplicates, label_smoothing=label_smoothing,
            normalize=normalize,
        )  # fmt: skip
        self.temperature = Temperature(INITIAL_TAU[loss], mode="learnable") if temperature is None else temperature
        self.logit_bias = new_bias(loss)
        self.widths, self.projection, self.chunk_size = (x_width, y_width, width), projection, chunk_size
        self.x_pooling, self.y_pooling = x_pooling, y_pooling

    def forward(
        self,
        x: TowerInput,
        y: TowerInput,
        ids: Int[Tensor, " n"] | None = None,
        modality_swap: Int[Tensor, "n 5"] | None = None,
        return_loss: bool = True,
    ) -> ContrastiveOutput:
        """Encode both modalities of a batch; see the class, and `ContrastiveOutput`."""
        chunk_size = self.chunk_size if self.training else None
        of_x = [*self.x_tower.parameters(), *self.x_projection.parameters()]
        of_y = [*self.y_tower.parameters(), *self.y_projection.parameters()]
        return self.objective(
            encode_in_chunks(self.encode_x, x, chunk_size, of_x),
            encode_in_chunks(self.encode_y, y, chunk_size, of_y),
            self.inverse_temperature(), self.bias(),
            ids=ids, modality_swap=modality_swap, with_loss=return_loss, with_logits=chunk_size is None,
        )  # fmt: skip

    def encode_x(self, x: TowerInput) -> Float[Tensor, "n width"]:
        """Encode the first modality, without normalizing it."""
        return _projected(self.x_projection, _features(self.x_tower, x, self.x_pooling))

    def encode_y(self, y: TowerInput) -> Float[Tensor, "n width"]:
        """Encode the second modality, without normalizing it."""
        return _projected(self.y_projection, _features(self.y_tower, y, self.y_pooling))

    def inverse_temperature(self) -> Tensor:
        return self.temperature()

    def bias(self) -> float | Tensor:
        return 0.0 if self.logit_bias is None else self.logit_bias

    def parts(self) -> dict[str, nn.Module]:
        return {"x_tower": self.x_tower, "y_tower": self.y_tower}

    def settings(self) -> dict[str, Any]:
        x_width, y_width, width = self.widths
        return {
            "x_width": x_width, "y_width": y_width, "width": width, "projection": self.projection,
            "x_pooling": self.x_pooling, "y_pooling": self.y_pooling, "normalize": self.objective.normalize,
            **super().settings(),
        }  # fmt: skip


def make_projection(kind: Projection, width_in: int, width: int) -> nn.Module:
    """Make the map of one tower's features into the common space.

    Raises:
        ValueError: for another kind, or "none" where the widths differ.

    >>> make_projection("linear", 4, 3)
    Linear(in_features=4, out_features=3, bias=False)
    """
    if kind == "linear":
        return nn.Linear(width_in, width, bias=False)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width))
    if kind != "none":
        raise ValueError(f"`projection` must be 'linear', 'mlp' or 'none', got {kind!r}")
    if width_in != width:
        raise ValueError(f"without a projection a tower of {width_in} features cannot reach a width of {width}")
    return nn.Identity()


def _projected(projection: nn.Module, features: Tensor) -> Tensor:
    """Project in the precision of the projection, which may be trained in float32 beside half-precision towers."""
    weight = next(projection.parameters(), None)
    return projection(features if weight is None else features.to(weight.dtype))


def _features(tower: nn.Module, inputs: TowerInput, pooling: Pooling) -> Tensor:
    if isinstance(inputs, Mapping):
        output = tower(**inputs)
        return tower_features(output, pooling, output_mask(tower, inputs, output))
    return tower_features(tower(inputs), pooling)
