"""The models and batches that are timed: the shapes of real architectures with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, LlamaModel

ENCODER_TARGETS = r"encoder\..*(query|key|value|dense)"
DECODER_TARGETS = r".*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Workload:
    """A model with all the linear layers of its blocks to be adapted, and a loss on one batch.

    Attributes:
        kind: "encoder" (BERT), "decoder" (Llama without a head) or "causal_lm" (Llama with one).
        config: arguments of the transformers configuration.
        batch, tokens: shape of the input.
        dtype: of the weights, a name in torch.
    """

    kind: str
    config: dict[str, Any]
    batch: int
    tokens: int
    dtype: str = "float32"

    @property
    def targets(self) -> str:
        return ENCODER_TARGETS if self.kind == "encoder" else DECODER_TARGETS

    def model(self, seed: int) -> nn.Module:
        """Make the model with random weights, all of them frozen, in training mode without dropout."""
        torch.manual_seed(seed)
        if self.kind == "encoder":
            quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            model: nn.Module = BertModel(BertConfig(**quiet, **self.config), add_pooling_layer=False)
        else:
            model_class = LlamaForCausalLM if self.kind == "causal_lm" else LlamaModel
            model = model_class(LlamaConfig(use_cache=False, **self.config))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device, getattr(torch, self.dtype)).requires_grad_(False).train()

    def loss(self, model: nn.Module, seed: int) -> Callable[[], Tensor]:
        """Make a function that runs the forward pass on a fixed batch and returns a loss."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, self.config["vocab_size"], (self.batch, self.tokens), generator=generator)
        ids = ids.to(next(model.parameters()).device)
        if self.kind == "causal_lm":
            return lambda: model(input_ids=ids, labels=ids).loss
        return lambda: model(input_ids=ids).last_hidden_state.float().square().mean()
