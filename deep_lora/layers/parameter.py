"""Deep LoRA on a bare `nn.Parameter`, such as the stacked weights of mixture-of-experts layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deep_lora.config import DeepLoraConfig
from deep_lora.functional import add_to_weight, full_precision
from deep_lora.layers.base import wide_float
from deep_lora.layers.module import AdaptedModule
from deep_lora.weights.offload import brought_in, device_of_base


class _AddedUpdate(nn.Module):
    """Parametrization `W -> W + dW`."""

    def __init__(self, update: Tensor) -> None:
        super().__init__()
        self.update = update

    def forward(self, weight: Tensor) -> Tensor:
        return add_to_weight(weight, self.update)


class ParamWrapper(AdaptedModule):
    """Adapts one parameter of `base_layer`: (out, in), or (experts, out, in) with one update for each expert.

    Experts stored (experts, in, out) are recognized by the layer's `is_transposed`. For experts the adapter tensors are
    `deep_lora_U` (experts, out, r), `deep_lora_core` (n, experts, r, r) and `deep_lora_V` (experts, in, r). The update
    is added to the parameter during the forward pass, so reading `module.weight` elsewhere does not show it.
    Several parameters of one module are adapted by nesting wrappers. PEFT recognizes the class by its name.
    """

    supports_dropout: ClassVar[bool] = False  # the input of the parameter is not known here
    nests: ClassVar[bool] = True

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, *, parameter_name: str, config: DeepLoraConfig, **kwargs: Any
    ) -> None:
        if config.fan_in_fan_out:
            raise ValueError(
                "deep_lora.ParamWrapper does not support `fan_in_fan_out=True`; unset it (layers that store experts "
                "as (in, out) are recognized by their `is_transposed`)"
            )
        self.parameter_name = self.bare_parameter = parameter_name
        super().__init__(base_layer, adapter_name, config=config, **kwargs)

    def get_param(self) -> Tensor:
        """Return the parameter that is adapted."""
        return getattr(self.get_base_layer(), self.parameter_name)

    def get_base_weight(self) -> Tensor:
        return self.get_param().data

    def set_base_weight(self, weight_data: Tensor) -> None:
        self.get_param().data = weight_data

    def _features(self) -> tuple[int, int]:
        parameter = self.get_param()
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        if len(shape) not in (2, 3):
            raise ValueError(
                f"deep_lora.ParamWrapper adapts parameters with 2 or 3 dimensions, `{self.parameter_name}` has shape "
                f"{shape}; do not target it"
            )
        self.num_experts = shape[0] if len(shape) == 3 else None
        self._stored_transposed = len(shape) == 3 and getattr(self.get_base_layer(), "is_transposed", False)
        out_features, in_features = shape[-2:][::-1] if self._stored_transposed else shape[-2:]
        return in_features, out_features

    def _numel(self) -> int:
        return super()._numel() * (self.num_experts or 1)

    def _create_parameters(self, adapter_name: str, r: int, num_cores: int) -> None:
        experts = () if self.num_experts is None else (self.num_experts,)
        self.deep_lora_U[adapter_name] = nn.Parameter(torch.empty(*experts, self.out_features, r))
        self.deep_lora_core[adapter_name] = nn.Parameter(torch.empty(num_cores, *experts, r, r))
        self.deep_lora_V[adapter_name] = nn.Parameter(torch.empty(*experts, self.in_features, r))

    def _place_of_base(self) -> tuple[torch.device | None, torch.dtype | None]:
        parameter = self.get_param()
        return device_of_base(self.get_base_layer(), parameter), wide_float(parameter.dtype)

    def _base_layout(self, delta: Tensor) -> Tensor:
        return delta.mT if self._stored_transposed else delta

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return self.num_experts is None  # PEFT's converter decomposes matrices only

    def lora_tensors(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        if self.num_experts is None:
            return super().lora_tensors(B, A)
        return super().lora_tensors(B.permute(1, 2, 0).flatten(1), A.flatten(0, 1))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.pop("adapter_names", None) is not None:
            raise ValueError("deep_lora.ParamWrapper does not support mixed adapter batches yet.")
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or not self.unmerged_adapters():
            return self.base_layer(x, *args, **kwargs)
        with brought_in(self.get_base_layer()), self._parameter_with_update():
            return self.base_layer(x, *args, **kwargs)

    @contextmanager
    def _parameter_with_update(self) -> Iterator[None]:
        adapters = self.unmerged_adapters()
        self._check_values(adapters, self.get_param())
        base, name = self.get_base_layer(), self.parameter_name
        with full_precision(self.get_param()):
            update = torch.stack([self.get_delta_weight(adapter) for adapter in adapters]).sum(0)
        trainable = self.get_param().requires_grad
        parametrization = _AddedUpdate(update)
        parametrize.register_parametrization(base, name, parametrization)
        base.parametrizations[name].original.requires_grad_(trainable)
        try:
            with parametrize.cached():
                yield
        finally:
            _remove_parametrization(base, name, parametrization)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Merge this and all nested wrappers if asked, and return the bare module."""
        layer: nn.Module = self
        while isinstance(layer, ParamWrapper):
            if merge:
                layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            layer = layer.base_layer
        return layer

    def __repr__(self) -> str:
        text = super().__repr__()
        inside = text.find("(") + 1
        return f"{text[:inside]}\n  parameter_name='{self.parameter_name}',{text[inside:]}"


def _remove_parametrization(base: Any, name: str, parametrization: nn.Module) -> None:
    """Remove ours only: the parameter may carry parametrizations of its owner, and nested wrappers add their own."""
    stack = base.parametrizations[name]
    if len(stack) == 1:
        parametrize.remove_parametrizations(base, name, leave_parametrized=False)
        return
    del stack[next(i for i, module in enumerate(stack) if module is parametrization)]
