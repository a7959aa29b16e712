"""Deep LoRA on `nn.Linear`, transformers' `Conv1D` and every quantised linear layer that PEFT knows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from deep_lora.config import DeepLoraConfig
from deep_lora.forward import AdaptedModule
from deep_lora.functional import add_low_rank_update
from deep_lora.gradients import GradientOperator


class Linear(AdaptedModule):
    """`y = W x + U folded V^T x`.

    Args:
        base_layer: the frozen layer; its weight is (out, in), or (in, out) if `fan_in_fan_out`.
        fan_in_fan_out: the base weight is stored transposed (transformers' Conv1D).
    """

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        *,
        config: DeepLoraConfig,
        fan_in_fan_out: bool = False,
        **kwargs: Any,
    ) -> None:
        self.fan_in_fan_out = fan_in_fan_out
        super().__init__(base_layer, adapter_name, config=config, **kwargs)

    def _base_layout(self, delta: Tensor) -> Tensor:
        return delta.mT if self.fan_in_fan_out else delta

    def _add_update(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        U, folded, V = self.factors(adapter_name)
        x = self.deep_lora_dropout[adapter_name](self._cast_input_dtype(x, V.dtype))
        return add_low_rank_update(result, x @ V, folded, U)

    def gradient_operator(self, x: Tensor, grad_output: Tensor) -> GradientOperator:
        """`G = delta^T x` over all tokens of one call."""
        rows = x.reshape(-1, x.shape[-1])
        delta = grad_output.reshape(-1, grad_output.shape[-1])
        return GradientOperator.from_rows(rows, delta)
