"""`ContrastiveModel`: a CLIP-like transformers model with the losses and methods of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from peft import PeftModel
from torch import Tensor, nn

from modality.losses.chunks import encode_in_chunks
from modality.losses.contrastive import Duplicates
from modality.losses.objective import ContrastiveObjective, Loss, new_bias
from modality.models.base import PairModel
from modality.models.signature import NamesInputsOfModel
from modality.output import FIRST_MODALITY, SECOND_MODALITY, ContrastiveOutput, are_paired, paired_embeddings
from modality.temperature.finding import base_model_of
from modality.temperature.logit_scale import own_scales
from modality.temperature.module import Temperature, keep_float32_


class ContrastiveModel(PairModel, library_name="deep-lora", tags=["modality", "contrastive"]):
    """A CLIP-like model (CLIP, ChineseCLIP, SigLIP, AltCLIP, CLAP, ALIGN, VisionTextDualEncoder, ...) and its loss.

    The model is called as usual; its normalized `image_embeds` (or audio, video, speech) and `text_embeds` are x and y,
    or the `image_features` and `text_features` of open_clip. If you adapt it with PEFT, do so before you wrap it. Its
    scale and bias stay in float32 when the rest is cast to half precision, which would swallow their steps.

    Args:
        model: returns one row for each pair from each modality.
        temperature: replaces the model's own, its `logit_scale` (CLAP has two, ALIGN calls it `temperature`), which is
            then frozen and has the same value in saved models. Without it the model's own is trained, as in
            transformers (no bound). This also holds under PEFT, which freezes `logit_scale` and SigLIP's `logit_bias`,
            unless the whole PEFT model is frozen. To keep it fixed, freeze it afterwards:
            `find_temperature(model).freeze()`.
        loss: "contrastive", or "sigmoid" with the model's `logit_bias`, or a new one.
        gather: contrast with the rows of all ranks.
        chunk_size: pairs whose activations are in memory at a time; see `encode_in_chunks`.
        duplicates, label_smoothing: see `contrastive_loss`; `ids` in the batch tell what is a duplicate.

    Raises:
        ValueError: if there is no temperature to use, or more than one.

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
        if temperature is None:
            _check_own_scale(model)
        self.model, self.temperature, self.chunk_size = model, temperature, chunk_size
        self.objective = ContrastiveObjective(
            loss, gather=gather, block_size=chunk_size, duplicates=duplicates, label_smoothing=label_smoothing
        )
        bias = own_logit_bias(model) if loss == "sigmoid" else None
        self.logit_bias = new_bias(loss) if bias is None else None
        frozen = isinstance(model, PeftModel) and not any(p.requires_grad for p in model.parameters())
        for scale in own_scales(model):
            if temperature is not None:
                scale.parameter.requires_grad_(False)
            elif isinstance(model, PeftModel) and not frozen:
                scale.parameter.requires_grad_(True)
        if bias is not None and isinstance(model, PeftModel) and not frozen:
            bias.requires_grad_(True)
        for scalar in self.scalars():
            keep_float32_(scalar)

    @NamesInputsOfModel
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
        return own_scales(self.model)[0].inverse() if self.temperature is None else self.temperature()

    def bias(self) -> float | Tensor:
        if self.objective.loss != "sigmoid":
            return 0.0
        own = own_logit_bias(self.model) if self.logit_bias is None else self.logit_bias
        assert own is not None
        return own

    def scalars(self) -> list[Tensor]:
        bias = own_logit_bias(self.model)
        of_model = [scale.parameter for scale in own_scales(self.model)] + ([] if bias is None else [bias])
        return of_model + super().scalars()

    def parts(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.temperature is not None:
            for scale in own_scales(self.model):
                scale.set_tau(self.temperature.tau)
        super()._save_pretrained(save_directory)

    def _embeddings(self, inputs: dict[str, Any]) -> Tensor:
        output = self.model(**inputs)
        pair = paired_embeddings(output)
        if pair is None:
            raise ValueError(
                f"{type(self.model).__name__} returned a {type(output).__name__} without embeddings of two modalities "
                f"(one of {list(FIRST_MODALITY)} and one of {list(SECOND_MODALITY)}); a DualEncoder takes any towers"
            )
        if not are_paired(*pair):
            raise ValueError(
                f"{type(self.model).__name__} returned embeddings of shapes {tuple(pair[0].shape)} and "
                f"{tuple(pair[1].shape)}, and the loss needs one row for each pair from each modality; wrap the model "
                "in a module that returns such `image_embeds` and `text_embeds`, or put its towers into a DualEncoder"
            )
        return torch.cat(pair, dim=1)


def own_logit_bias(model: Any) -> nn.Parameter | None:
    """Return the bias of the logits that a model brings along, inside any wrapper."""
    found = getattr(base_model_of(model), "logit_bias", None)
    return found if isinstance(found, nn.Parameter) else None


def _check_own_scale(model: nn.Module) -> None:
    name, scales = type(base_model_of(model)).__name__, [scale.attribute for scale in own_scales(model)]
    if not scales:
        raise ValueError(
            f"{name} has no `logit_scale`; pass `temperature=Temperature(...)`, or put towers without a head of their "
            "own into a `DualEncoder`"
        )
    if len(scales) > 1:
        raise ValueError(
            f"{name} has {len(scales)} temperatures of its own, {scales}, and the loss has one for both directions; "
            "pass `temperature=Temperature(...)`, which replaces them"
        )
