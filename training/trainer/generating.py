"""`AdapterTrainer` that also lets the model generate at evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from training.trainer.trainer import AdapterTrainer


class GeneratingTrainer(AdapterTrainer):
    """Its predictions are pairs of logits and generated tokens, the first token that starts the decoder left out.

    Args:
        generation: arguments of `model.generate`.
    """

    def __init__(self, *args: Any, generation: dict[str, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.generation = generation

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """Trainer's, and what the model generates from the inputs without the labels."""
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if prediction_loss_only or logits is None:
            return loss, logits, labels
        first = logits[0] if isinstance(logits, tuple) else logits
        return loss, (first, self.generate(inputs)), labels

    @torch.no_grad()
    def generate(self, inputs: dict[str, Any]) -> Tensor:
        """Generated tokens (rows x longest), filled up with padding after the end of a text.

        Where the weights are spread over the processes, each goes on until all are done.
        """
        inputs = self._prepare_inputs({name: inputs[name] for name in ("input_ids", "attention_mask")})
        model: Any = self.accelerator.unwrap_model(self.model)
        spread = is_deepspeed_zero3_enabled() or self.is_fsdp_enabled
        return model.generate(**inputs, **self.generation, do_sample=False, synced_gpus=spread)[:, 1:]
