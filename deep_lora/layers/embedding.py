"""Deep LoRA on `nn.Embedding`: the token picks a row of V, the rest is a small linear map."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deep_lora.functional import add_low_rank_update, auto_core_scale
from deep_lora.layers.gradient import GradientOperator
from deep_lora.layers.module import AdaptedModule
from deep_lora.layers.swapping import can_be_tried, example, has_own_forward, is_additive


class Embedding(AdaptedModule):
    """`e(t) = W[t] + V[t] folded^T U^T`, with in = number of embeddings and out = their dimension.

    Scaled embeddings (`embed_scale` of Gemma) scale the update too. Dropout on a token id has no meaning, so
    `deep_lora_dropout` acts on the row `V[t]`.
    """

    looks_up: ClassVar[bool] = True
    shows_gradient: ClassVar[bool] = True
    supported: ClassVar[str] = "`torch.nn.Embedding`"

    @classmethod
    def accepts(cls, base: nn.Module, quantized_kind: str | None) -> bool:
        return isinstance(base, nn.Embedding)

    def __init__(self, base_layer: nn.Module, adapter_name: str, **kwargs: Any) -> None:
        super().__init__(base_layer, adapter_name, **kwargs)
        if not self._looks_up_its_input():
            raise ValueError(
                f"deep_lora.Embedding got a {type(self.get_base_layer()).__name__}, whose forward pass does more than "
                "look up the rows of its input, so an update of its rows would have another effect; name its weight in "
                "`target_parameters` instead"
            )

    def _looks_up_its_input(self) -> bool:
        """Try it, where the class has a forward pass of its own: those of positions do not, for example."""
        base = self.get_base_layer()
        known = self._get_embed_scale() is not None or not has_own_forward(base, nn.Embedding)
        if known or self.quantization_backend is not None or not can_be_tried(base):
            return True
        ids = torch.tensor([[2, 0, 1, 0]]) % self.in_features
        left, right = example(self.in_features, base.weight), example(self.out_features, base.weight) + 2
        return bool(is_additive(base, ids, left, right, left[ids][..., None] * right))

    def check_mergeable(self) -> None:
        super().check_mergeable()
        if self.get_base_layer().max_norm is not None:
            raise ValueError(
                "an embedding with `max_norm` shortens its rows at every call, so it would compute something else "
                "after a merge; keep the adapter separate, or set `max_norm` to None"
            )

    def lora_tensors(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        return {"lora_embedding_A": A, "lora_embedding_B": B}

    def _base_layout(self, delta: Tensor) -> Tensor:
        return delta.mT

    def _auto_core_scale(self, r: int, init_scale: float, num_cores: int) -> float:
        # A one-hot input meets one of N rows of V, so its features are sqrt(N) smaller than those of a hidden state;
        # kappa^n makes up for it.
        return auto_core_scale(r, init_scale) * self.in_features ** (0.5 / num_cores)

    def _look_up(self, ids: Tensor, table: Tensor) -> Tensor:
        base = self.get_base_layer()
        return F.embedding(ids, table, base.padding_idx, None, 2.0, base.scale_grad_by_freq, base.sparse)

    def _embed_factor(self, like: Tensor) -> Tensor | float:
        scale = self._get_embed_scale()
        return 1.0 if scale is None else scale.to(like.dtype)

    def _add_update(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        U, folded, V = self.update(adapter_name).factors()
        row = self.deep_lora_dropout[adapter_name](self._look_up(x, V))
        return add_low_rank_update(result, row * self._embed_factor(row), folded, U)

    def gradient_operator(self, x: Tensor, grad_output: Tensor) -> GradientOperator:
        """Return `G = delta^T onehot(t)`; products look up and scatter rows; vocabulary x tokens is never formed."""
        ids = x.reshape(-1)
        delta = grad_output.reshape(-1, grad_output.shape[-1])
        delta = delta.to(torch.promote_types(delta.dtype, torch.float32))
        delta = delta * self._embed_factor(delta)
        padding = self.get_base_layer().padding_idx
        if padding is not None:
            delta = delta * (ids != padding)[:, None]
        num_embeddings = self.in_features

        def apply_transpose(block: Tensor) -> Tensor:
            table = torch.zeros(num_embeddings, block.shape[1], dtype=block.dtype, device=block.device)
            return table.index_add_(0, ids, delta.to(block.dtype) @ block)

        return GradientOperator(
            rows=self.out_features,
            columns=num_embeddings,
            apply=lambda block: delta.to(block.dtype).mT @ block[ids],
            apply_transpose=apply_transpose,
        )
