"""The forward pass that all adapted modules share: disabled, merged, mixed batches, several active adapters."""

from __future__ import annotations

from typing import Any

import torch
from peft.utils import quantization_extra_repr
from torch import Tensor, nn

from deep_lora.config import DeepLoraConfig
from deep_lora.layers.base import DeepLoraLayer


class AdaptedModule(nn.Module, DeepLoraLayer):
    """A wrapped base layer plus its adapters. Subclasses implement `_add_update`."""

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        *,
        r: int,
        depth: int,
        config: DeepLoraConfig,
        tied_layer: DeepLoraLayer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        DeepLoraLayer.__init__(self, base_layer, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, depth, config, tied_layer=tied_layer)

    def _add_update(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        """`result` plus the update of that adapter applied to the input `x`."""
        raise NotImplementedError

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        adapter_names = kwargs.pop("adapter_names", None)
        self._check_forward_args(x, adapter_names)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._mixed_batch_forward(x, *args, adapter_names=adapter_names, **kwargs)
        if self.merged:
            return self.base_layer(x, *args, **kwargs)
        adapters = [name for name in self.active_adapters if name in self.deep_lora_U]
        return self._adapted_forward(x, adapters, *args, **kwargs)

    def _adapted_forward(self, x: Tensor, adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """The base layer, whatever it is, plus the updates of these adapters."""
        result = self.base_layer(x, *args, **kwargs)
        dtype = result.dtype
        for adapter_name in adapters:
            result = self._add_update(result, x, adapter_name)
        return result.to(dtype)

    def _check_forward_args(self, x: Tensor, adapter_names: list[str] | None) -> None:
        if adapter_names is None:
            return
        if len(x) != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )

    def _mixed_batch_forward(self, x: Tensor, *args: Any, adapter_names: list[str], **kwargs: Any) -> Tensor:
        """Inference with one adapter name for each sample; "__base__" stands for no adapter."""
        result = self.base_layer(x, *args, **kwargs)
        rows, parts = [], []
        for adapter_name in sorted(set(adapter_names) & self.deep_lora_U.keys()):
            own = torch.tensor([i for i, name in enumerate(adapter_names) if name == adapter_name], device=x.device)
            parts.append(self._add_update(result[own], x[own], adapter_name).to(result.dtype))
            rows.append(own)
        return result.index_copy(0, torch.cat(rows), torch.cat(parts)) if rows else result

    def extra_repr(self) -> str:
        return quantization_extra_repr(self)

    def __repr__(self) -> str:
        return "deep_lora." + super().__repr__()
