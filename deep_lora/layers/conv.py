"""Deep LoRA on `nn.Conv1d`, `nn.Conv2d` and `nn.Conv3d`, grouped or not: V is a small convolution, U a pointwise one.

Subclasses that compute in their own way (padding by themselves, normalizing the weight) are called with the very
weight that they would have after a merge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad as torch_grad

from deep_lora.functional import add_to_weight, auto_core_scale
from deep_lora.layers.gradient import GradientOperator
from deep_lora.layers.module import AdaptedModule
from deep_lora.layers.swapping import call_with
from deep_lora.weights.offload import unhooked


class Conv(AdaptedModule):
    """The update of the weight seen as a matrix (out, in/groups * kernel positions).

    With groups, the r kernels in V run over the channels of each group and every group has its own rows of U; this is
    exactly the grouped convolution with `dW`, so merging works for groups too.

    Attributes:
        kind: the base class in torch.
        function, weight_gradient: its convolution, and the derivative of that by the weight.
    """

    shows_gradient: ClassVar[bool] = True
    kind: ClassVar[type[nn.Module]]
    function: ClassVar[Callable[..., Tensor]]
    weight_gradient: ClassVar[Callable[..., Tensor]]

    @classmethod
    def accepts(cls, base: nn.Module, quantized_kind: str | None) -> bool:
        return isinstance(base, cls.kind)

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
        """Write the columns of an (in, k) block as kernels, once a group: (groups k, in/groups, *kernel size)."""
        kernels = block.mT.reshape(-1, *self._kernel_shape)
        return kernels.repeat(self.get_base_layer().groups, *(1 for _ in self._kernel_shape))

    def _convolve(self, padded: Tensor, kernels: Tensor) -> Tensor:
        base = self.get_base_layer()
        return type(self).function(padded, kernels, None, base.stride, 0, base.dilation, base.groups)

    def _pointwise(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(*matrix.shape, *(1 for _ in self.get_base_layer().kernel_size))

    def _add_update(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        if self._computes_in_its_own_way():
            x = self.deep_lora_dropout[adapter_name](x)
            return result + (self._call_updated(x, [adapter_name]) - self.base_layer(x))
        U, folded, V = self.update(adapter_name).factors()
        x = self.deep_lora_dropout[adapter_name](self._cast_input_dtype(x, V.dtype))
        projected = self._convolve(self._pad(x), self._kernels(V))
        return result + type(self).function(projected, self._pointwise(U @ folded), groups=self.get_base_layer().groups)

    # ---- base layers that compute in their own way -------------------------------------------------------------------

    def _computes_in_its_own_way(self) -> bool:
        base, plain = type(self.get_base_layer()), self.kind
        return any(getattr(base, name) is not getattr(plain, name) for name in ("forward", "_conv_forward"))

    def _adapted_forward(self, x: Tensor, adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        dropped = any(isinstance(self.deep_lora_dropout[name], nn.Dropout) and self.training for name in adapters)
        if not adapters or dropped or not self._computes_in_its_own_way():
            return super()._adapted_forward(x, adapters, *args, **kwargs)
        return self._call_updated(x, adapters, *args, **kwargs)

    def _call_updated(self, x: Tensor, adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Call the base layer with the weight that it would have after a merge."""
        base = self.get_base_layer()
        with unhooked(base):
            weight = base.weight
            for adapter_name in adapters:
                weight = add_to_weight(weight, self.get_delta_weight(adapter_name).to(weight.device))
            return call_with(base, "weight", weight, x, *args, **kwargs)

    @torch.no_grad()
    def _is_linear_in_its_weight(self) -> bool:
        """Try it: PEFT's LoRA makes A a layer of the class of the base, which is right only for linear ones."""
        if not self._computes_in_its_own_way():
            return True
        base = self.get_base_layer()
        sides = [2 * (size - 1) * step + 2 for size, step in zip(base.kernel_size, base.dilation, strict=True)]
        with unhooked(base):
            x = torch.ones(1, base.in_channels, *sides, dtype=base.weight.dtype, device=base.weight.device)
            once, twice, never = (call_with(base, "weight", factor * base.weight, x) for factor in (1.0, 2.0, 0.0))
        return torch.allclose(twice - never, 2 * (once - never), rtol=1e-2, atol=1e-6)

    def _own_gradient(self, x: Tensor, grad_output: Tensor) -> GradientOperator:
        """Differentiate the base layer by its weight, which is formed: kernels are small."""
        base = self.get_base_layer()
        with unhooked(base), torch.enable_grad():
            weight = base.weight.detach().requires_grad_()
            output = call_with(base, "weight", weight, x.detach().to(weight.dtype))
            (gradient,) = torch.autograd.grad(output, weight, grad_output.to(output.dtype))
        dense = gradient.reshape(self.out_features, self.in_features)
        dense = dense.to(torch.promote_types(dense.dtype, torch.float32))
        return GradientOperator(
            self.out_features,
            self.in_features,
            apply=lambda block: dense @ block.to(dense.dtype),
            apply_transpose=lambda block: dense.mT @ block.to(dense.dtype),
            product=lambda: dense,
        )

    # ---- leaving -----------------------------------------------------------------------------------------------------

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False  # PEFT's converter decomposes matrices only; deep_lora.to_lora handles this layer

    def export_obstacles(self) -> list[str]:
        """Name groups, dilation and padding modes, which PEFT's LoRA leaves out of its own convolution."""
        base = self.get_base_layer()
        obstacles = {
            f"{base.groups} groups": base.groups > 1,
            f"dilation {base.dilation}": any(step != 1 for step in base.dilation),
            f"padding mode {base.padding_mode}": base.padding_mode != "zeros",
            "a forward pass of its own that is not linear in the weight": not self._is_linear_in_its_weight(),
        }
        return [obstacle for obstacle, present in obstacles.items() if present]

    def lora_tensors(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        return super().lora_tensors(self._pointwise(B), A.reshape(A.shape[0], *self._kernel_shape))

    def gradient_operator(self, x: Tensor, grad_output: Tensor) -> GradientOperator:
        """Return `G` as convolutions with k kernels; the patches are never unfolded."""
        if self._computes_in_its_own_way():
            return self._own_gradient(x, grad_output)
        base = self.get_base_layer()
        groups, space = base.groups, len(base.kernel_size)
        wide = torch.promote_types(torch.promote_types(x.dtype, grad_output.dtype), torch.float32)
        padded, delta = self._pad(x.reshape(-1, *x.shape[-space - 1 :])).to(wide), grad_output.to(wide)
        delta = delta.reshape(-1, groups, self.out_features // groups, *delta.shape[-space:])

        def apply(block: Tensor) -> Tensor:
            responses = self._convolve(padded, self._kernels(block).to(wide))
            responses = responses.reshape(-1, groups, block.shape[1], *responses.shape[-space:])
            products = torch.einsum("bgop,bgkp->gok", delta.flatten(3), responses.flatten(3))
            return products.reshape(-1, block.shape[1]).to(block.dtype)

        def apply_transpose(block: Tensor) -> Tensor:
            per_group = block.to(wide).reshape(groups, -1, block.shape[1])
            signal = torch.einsum("bgo...,gok->bgk...", delta, per_group).flatten(1, 2)
            shape: Any = (groups * block.shape[1], *self._kernel_shape)
            gradient = type(self).weight_gradient
            kernels = gradient(padded, shape, signal, base.stride, 0, base.dilation, groups)
            summed = kernels.reshape(groups, block.shape[1], -1).sum(0)
            return summed.mT.to(block.dtype)

        return GradientOperator(self.out_features, self.in_features, apply, apply_transpose)


class Conv1d(Conv):
    """`Conv` on `nn.Conv1d`."""

    kind: ClassVar[type[nn.Module]] = nn.Conv1d
    supported: ClassVar[str] = "`torch.nn.Conv1d`"
    function = staticmethod(F.conv1d)
    weight_gradient = staticmethod(torch_grad.conv1d_weight)


class Conv2d(Conv):
    """`Conv` on `nn.Conv2d`."""

    kind: ClassVar[type[nn.Module]] = nn.Conv2d
    supported: ClassVar[str] = "`torch.nn.Conv2d`"
    function = staticmethod(F.conv2d)
    weight_gradient = staticmethod(torch_grad.conv2d_weight)


class Conv3d(Conv):
    """`Conv` on `nn.Conv3d`."""

    kind: ClassVar[type[nn.Module]] = nn.Conv3d
    supported: ClassVar[str] = "`torch.nn.Conv3d`"
    function = staticmethod(F.conv3d)
    weight_gradient = staticmethod(torch_grad.conv3d_weight)
