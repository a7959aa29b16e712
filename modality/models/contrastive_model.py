"""`ContrastiveModel`: a CLIP-like transformers model with the losses and methods of this package."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from peft import PeftModel
from torch import Tensor, nn

from modality.losses.chunks import encode_in_chunks
from modality.losses.contrastive import Duplicates
from modality.losses.objective import ContrastiveObjective, Loss
from modality.models.base import PairModel
from modality.output import FIRST_MODALITY, SECOND_MODALITY, ContrastiveOutput, paired_embeddings
from modality.temperature.finding import base_model_of
from modality.temperature.logit_scale import own_logit_scale, set_logit_scale_
from modality.temperature.module import Temperature


class ContrastiveModel(PairModel, library_name="deep-lora", tags=["modality", "contrastive"]):
    """A CLIP-like model (CLIP, ChineseCLIP, SigLIP, AltCLIP, CLAP, VisionTextDualEncoder, ...) and its loss.

    The model is called as usual; its normalized `image_embeds` (or audio, video) and `text_embeds` are x and y. If
    you adapt it with PEFT, do so before you wrap it.

    Args:
        model: returns `image_embeds` and `text_embeds`.
        temperature: replaces the model's `logit_scale`, which is then frozen and has the same value in saved models.
            Without it the model's own `logit_scale` is trained, as in transformers (no bound). This also holds under
            PEFT, which freezes `logit_scale` and SigLIP's `logit_bias`, unless the whole PEFT model is frozen. To keep
            it fixed, freeze it afterwards: `find_temperature(model).freeze()`.
        loss: "contrastive", or "sigmoid" with the model's `logit_bias`, or a new one.
        gather: contrast with the rows of all ranks.
        chunk_size: pairs whose activations are in memory at a time; see `encode_in_chunks`.
        duplicates, label_smoothing: see `contrastive_loss`; `ids` in the batch tell what is a duplicate.

    Raises:
        ValueError: if there is no temperature to use.

    >>> from transformers import CLIPConfig, CLIPModel
    >>> tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> vision, text = tower | {"image_size": 4, "patch_size": 2}, tower | {"vocab_size": 9, "eos_token_id": 2}
    >>> clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=4))
    >>> model = ContrastiveModel(clip, temperature=Temperature(0.05))
    >>> model(torch.tensor([[1, 2], [3, 2]]), torch.randn(2, 3, 4, 4)).logits.shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: Temperature | None = None,
        loss: Loss = "contrastive",
        gather: bool = True,
        chunk_size: int | None = None,
        duplicates: Duplicates = "share",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        base, scale = base_model_of(model), own_logit_scale(model)
        if temperature is None and getattr(base, "logit_scale", None) is None:
            raise ValueError(
                f"{type(base).__name__} has no `logit_scale`; pass `temperature=Temperature(...)`, or "
                "put towers without a head of their own into a `DualEncoder`"
            )
        self.model, self.temperature, self.chunk_size = model, temperature, chunk_size
        self.objective = ContrastiveObjective(
            loss, gather=gather, block_size=chunk_size, duplicates=duplicates, label_smoothing=label_smoothing
        )
        if temperature is not None and scale is not None:
            scale.requires_grad_(False)
        own_bias = loss == "sigmoid" and not hasattr(base, "logit_bias")
        if isinstance(model, PeftModel) and any(parameter.requires_grad for parameter in model.parameters()):
            if temperature is None and scale is not None:
                scale.requires_grad_(True)
            if loss == "sigmoid" and not own_bias:
                base.logit_bias.requires_grad_(True)
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if own_bias else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        input_features: Tensor | None = None,
        ids: Int[Tensor, " n"] | None = None,
        modality_swap: Int[Tensor, "n 5"] | None = None,
        return_loss: bool = True,
        **inputs: Any,
    ) -> ContrastiveOutput:
        """Run the model on its inputs, with `ids` of the pairs and the rule of a `ModalitySwapCollator`."""
        named = {
            "input_ids": input_ids, "pixel_values": pixel_values, "attention_mask": attention_mask,
            "position_ids": position_ids, "token_type_ids": token_type_ids, "spatial_shapes": spatial_shapes,
            "pixel_attention_mask": pixel_attention_mask, "input_features": input_features,
        }  # fmt: skip
        given = {name: value for name, value in (named | inputs).items() if value is not None}
        chunk_size = self.chunk_size if self.training else None
        embeddings = encode_in_chunks(self._embeddings, given, chunk_size, self.model.parameters())
        x, y = embeddings.chunk(2, dim=1)
        return self.objective(
            x, y, self.inverse_temperature(), self.bias(),
            ids=ids, modality_swap=modality_swap, with_loss=return_loss,
            with_logits=chunk_size is None,
        )  # fmt: skip

    def inverse_temperature(self) -> Tensor:
        return base_model_of(self.model).logit_scale.exp() if self.temperature is None else self.temperature()

    def bias(self) -> float | Tensor:
        if self.objective.loss != "sigmoid":
            return 0.0
        return base_model_of(self.model).logit_bias if self.logit_bias is None else self.logit_bias

    def parts(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.temperature is not None:
            set_logit_scale_(self.model, -math.log(self.temperature.tau))
        super()._save_pretrained(save_directory)

    def _embeddings(self, inputs: dict[str, Any]) -> Tensor:
        output = self.model(**inputs)
        pair = paired_embeddings(output)
        if pair is None:
            raise ValueError(
                f"{type(self.model).__name__} returned a {type(output).__name__} without embeddings of two modalities "
                f"(one of {list(FIRST_MODALITY)} and one of {list(SECOND_MODALITY)}); a DualEncoder takes any towers"
            )
        return torch.cat(pair, dim=1)
