"""Deep LoRA on `nn.Conv2d`, grouped or not: V is a small convolution, U a pointwise one."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from deep_lora.functional import auto_core_scale
from deep_lora.layers.gradient import GradientOperator
from deep_lora.layers.module import AdaptedModule


class Conv2d(AdaptedModule):
    """The update of the weight seen as a matrix (out, in/groups * height * width).

    With groups, the r kernels in V run over the channels of each group and every group has its own rows of U; this is
    exactly the grouped convolution with `dW`, so merging works for groups too.
    """

    shows_gradient: ClassVar[bool] = True
    supported: ClassVar[str] = "`torch.nn.Conv2d`"

    @classmethod
    def accepts(cls, base: nn.Module, quantized_kind: str | None) -> bool:
        return isinstance(base, nn.Conv2d)

    def _features(self) -> tuple[int, int]:
        weight_shape = getattr(self.get_base_layer().weight, "ds_shape", self.get_base_layer().weight.shape)
        return int(torch.Size(weight_shape[1:]).numel()), int(weight_shape[0])

    def _auto_core_scale(self, r: int, init_scale: float, num_cores: int) -> float:
        # Every input pixel enters the patches of all kernel positions, so the map is up to that much larger than dW.
        return auto_core_scale(r, init_scale) / math.prod(self.get_base_layer().kernel_size)

    def update_layer(self, adapter_name: str, r: int, *args: Any, **kwargs: Any) -> None:
        groups = self.get_base_layer().groups
        if r % groups:  # needed by PEFT's LoRA only; kept, so that a config means the same for both
            raise ValueError(
                f"Targeting a {type(self.get_base_layer()).__name__} with groups={groups} and rank {r}. Currently, "
                "support is limited to conv layers where the rank is divisible by groups. Either choose a different "
                "rank or do not target this specific layer."
            )
        super().update_layer(adapter_name, r, *args, **kwargs)

    @property
    def _kernel_shape(self) -> tuple[int, ...]:
        base = self.get_base_layer()
        return (base.in_channels // base.groups, *base.kernel_size)

    def _base_layout(self, delta: Tensor) -> Tensor:
        return delta.reshape(self.out_features, *self._kernel_shape)

    def _pad(self, x: Tensor) -> Tensor:
        base = self.get_base_layer()
        mode = "constant" if base.padding_mode == "zeros" else base.padding_mode
        return F.pad(x, base._reversed_padding_repeated_twice, mode=mode)

    def _kernels(self, block: Tensor) -> Tensor:
        """Write the columns of an (in, k) block as kernels, once a group: (groups k, in/groups, height, width)."""
        kernels = block.mT.reshape(-1, *self._kernel_shape)
        return kernels.repeat(self.get_base_layer().groups, 1, 1, 1)

    def _convolve(self, padded: Tensor, kernels: Tensor) -> Tensor:
        base = self.get_base_layer()
        return F.conv2d(padded, kernels, None, base.stride, 0, base.dilation, base.groups)

    def _add_update(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        U, folded, V = self.update(adapter_name).factors()
        x = self.deep_lora_dropout[adapter_name](self._cast_input_dtype(x, V.dtype))
        projected = self._convolve(self._pad(x), self._kernels(V))
        return result + F.conv2d(projected, (U @ folded)[:, :, None, None], groups=self.get_base_layer().groups)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False  # PEFT's converter decomposes matrices only; deep_lora.to_lora handles this layer

    def export_obstacles(self) -> list[str]:
        """Name groups, dilation and padding modes, which PEFT's LoRA leaves out of its own convolution."""
        base = self.get_base_layer()
        obstacles = {
            f"{base.groups} groups": base.groups > 1,
            f"dilation {base.dilation}": any(step != 1 for step in base.dilation),
            f"padding mode {base.padding_mode}": base.padding_mode != "zeros",
        }
        return [obstacle for obstacle, present in obstacles.items() if present]

    def lora_tensors(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        return super().lora_tensors(B[:, :, None, None], A.reshape(A.shape[0], *self._kernel_shape))

    def gradient_operator(self, x: Tensor, grad_output: Tensor) -> GradientOperator:
        """Return `G` as convolutions with k kernels; the patches are never unfolded."""
        base = self.get_base_layer()
        groups = base.groups
        wide = torch.promote_types(torch.promote_types(x.dtype, grad_output.dtype), torch.float32)
        padded, delta = self._pad(x.reshape(-1, *x.shape[-3:])).to(wide), grad_output.to(wide)
        delta = delta.reshape(-1, groups, self.out_features // groups, *delta.shape[-2:])

        def apply(block: Tensor) -> Tensor:
            responses = self._convolve(padded, self._kernels(block).to(wide))
            responses = responses.reshape(-1, groups, block.shape[1], *responses.shape[-2:])
            return torch.einsum("bgohw,bgkhw->gok", delta, responses).reshape(-1, block.shape[1]).to(block.dtype)

        def apply_transpose(block: Tensor) -> Tensor:
            per_group = block.to(wide).reshape(groups, -1, block.shape[1])
            signal = torch.einsum("bgohw,gok->bgkhw", delta, per_group).flatten(1, 2)
            shape: Any = (groups * block.shape[1], *self._kernel_shape)
            kernels = conv2d_weight(padded, shape, signal, base.stride, 0, base.dilation, groups)
            summed = kernels.reshape(groups, block.shape[1], -1).sum(0)
            return summed.mT.to(block.dtype)

        return GradientOperator(self.out_features, self.in_features, apply, apply_transpose)
