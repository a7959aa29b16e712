"""Deep LoRA on `nn.Linear`, transformers' `Conv1D` and every quantized linear layer that PEFT knows."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deep_lora.config import DeepLoraConfig
from deep_lora.functional import add_delta_weight_, add_low_rank_update, rows_of, side_by_side, transposed_factor
from deep_lora.layers.fused import frozen_linear, fused_linear, in_plain_eager_mode, is_plain
from deep_lora.layers.gradient import GradientOperator
from deep_lora.layers.module import AdaptedModule
from deep_lora.layers.swapping import can_be_tried, example, has_own_forward, is_additive


def adds_product(base: nn.Module) -> bool | None:
    """Tell whether a linear layer with another weight gives another product and nothing else.

    Returns:
        None if it does not return one vector of its width for each input vector, as routers of experts do not. True
        without a trial for plain layers, and for those that cannot be tried.

    >>> adds_product(nn.Linear(2, 3))
    True
    """
    if not has_own_forward(base, nn.Linear, Conv1D) or not can_be_tried(base):
        return True
    weight: Any = base.weight
    left, right = example(weight.shape[0], weight), example(weight.shape[1], weight)  # of the rows, of the columns
    inputs, outputs = (left, right / 4 + 0.5) if isinstance(base, Conv1D) else (right, left / 4 + 0.5)
    left, right = (inputs, outputs) if isinstance(base, Conv1D) else (outputs, inputs)
    x = torch.stack([inputs.flip(0), inputs]).reshape(1, 2, -1)
    return is_additive(base, x, left, right, (x @ inputs)[..., None] * outputs)


class Linear(AdaptedModule):
    """`y = W x + U folded V^T x`.

    Args:
        base_layer: the frozen layer; its weight is (out, in), or (in, out) if `fan_in_fan_out`.
        fan_in_fan_out: the base weight is stored transposed (transformers' Conv1D).
    """

    shows_gradient: ClassVar[bool] = True
    supported: ClassVar[str] = "`torch.nn.Linear` (plain or quantized), `transformers.pytorch_utils.Conv1D`"

    @classmethod
    def accepts(cls, base: nn.Module, quantized_kind: str | None) -> bool:
        return isinstance(base, nn.Linear | Conv1D) or quantized_kind == "linear"

    @classmethod
    def wrap(cls, target: nn.Module, adapter_name: str, *, config: DeepLoraConfig, **kwargs: Any) -> Linear:
        base: Any = target
        base = base.get_base_layer() if hasattr(base, "get_base_layer") else base
        if isinstance(base, nn.Linear) and config.fan_in_fan_out:
            warnings.warn(
                "`fan_in_fan_out=True` is ignored for torch.nn.Linear, whose weight is (out, in); unset it",
                stacklevel=2,
            )
        return cls(target, adapter_name, config=config, fan_in_fan_out=isinstance(base, Conv1D), **kwargs)

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
        if self._adds() is None:
            raise ValueError(
                f"deep_lora.Linear got a {type(self.get_base_layer()).__name__}, which does not return one vector of "
                f"its {self.out_features} `out_features` for each input vector, so no update can be added to it; leave "
                "it out (`exclude_modules`), or name its weight in `target_parameters`"
            )

    def _adds(self) -> bool | None:
        """Tell whether the base layer with another weight gives another product and nothing else; None as there."""
        return self.quantization_backend is not None or adds_product(self.get_base_layer())

    def check_mergeable(self) -> None:
        super().check_mergeable()
        if not self._adds():
            raise ValueError(
                f"a {type(self.get_base_layer()).__name__} computes more than a product with its weight (a scale, "
                "rounding, ...), so it would compute something else after a merge; keep the adapter separate"
            )

    def _base_layout(self, delta: Tensor) -> Tensor:
        return delta.mT if self.fan_in_fan_out else delta

    def _with_update(self, weight: Tensor, adapter_name: str, sign: int = 1) -> Tensor:
        factors = self.update(adapter_name).factors()
        # half precision on a CPU is multiplied in float32, see `delta_weight`
        low_on_cpu = weight.device.type == "cpu" and weight.dtype.itemsize < 4
        same = all((factor.dtype, factor.device) == (weight.dtype, weight.device) for factor in factors)
        if low_on_cpu or not same or not is_plain(weight):
            return super()._with_update(weight, adapter_name, sign)
        add_delta_weight_(weight.mT if self.fan_in_fan_out else weight, *factors, sign=sign)
        return weight

    def _adapted_forward(self, x: Tensor, adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        base = None if args or kwargs or not adapters else frozen_linear(self.base_layer)
        if base is None or not self._can_fuse(x, adapters):
            return super()._adapted_forward(x, adapters, *args, **kwargs)
        U, folded, V = side_by_side([self.update(name).factors() for name in adapters])
        return fused_linear(x, *base, V, folded, U)

    def _can_fuse(self, x: Tensor, adapters: list[str]) -> bool:
        """Tell whether these adapters see the same input as the base layer, and all in one dtype."""
        if any(isinstance(self.deep_lora_dropout[name], nn.Dropout) and self.training for name in adapters):
            return False
        factors = [tensors[name] for name in adapters for tensors in (self.deep_lora_V, self.deep_lora_U)]
        dtypes = {factor.dtype for factor in factors}
        casts = self.cast_input_dtype_enabled or x.dtype in dtypes
        return len(dtypes) == 1 and casts and in_plain_eager_mode(x, *factors)

    def _add_update(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        U, folded, V = self.update(adapter_name).factors()
        x = self.deep_lora_dropout[adapter_name](self._cast_input_dtype(x, V.dtype))
        return add_low_rank_update(result, F.linear(x, transposed_factor(V)), folded, U)

    def gradient_operator(self, x: Tensor, grad_output: Tensor) -> GradientOperator:
        """Return `G = delta^T x` over all tokens of one call."""
        return GradientOperator.from_rows(rows_of(x), rows_of(grad_output))
