"""`AdaptedModule`: the forward pass that all adapted layers share, and the scale of their updates."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from peft.utils import quantization_extra_repr
from torch import Tensor, nn

from deep_lora.config import DeepLoraConfig
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.weights.offload import is_empty


class AdaptedModule(nn.Module, DeepLoraLayer):
    """A wrapped base layer plus its adapters. Subclasses implement `_add_update`, and
    `accepts`, by which `kinds.KINDS` chooses among them.

    Attributes:
        supported: what base layers the class adapts, for error messages.
    """

    supported: ClassVar[str] = ""

    @classmethod
    def accepts(cls, base: nn.Module, quantized_kind: str | None) -> bool:
        """Tell whether this class adapts that base layer; `quantized_kind` is PEFT's word for a quantized layer's."""
        raise NotImplementedError

    @classmethod
    def wrap(cls, target: nn.Module, adapter_name: str, *, config: DeepLoraConfig, **kwargs: Any) -> AdaptedModule:
        """Make the adapted layer around a base layer, which other adapters may wrap already."""
        return cls(target, adapter_name, config=config, **kwargs)

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
        if self.in_features == 0:
            raise ValueError(
                f"a {type(self.get_base_layer()).__name__} of 0 inputs and {self.out_features} outputs has an empty "
                "weight, in which there is nothing to adapt; leave it out (`exclude_modules`)"
            )
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, depth, config, tied_layer=tied_layer)

    def _add_update(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        """Return `result` plus the update of that adapter applied to the input `x`."""
        raise NotImplementedError

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is not None:
            self._check_adapter_names(adapter_names, len(x))
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._mixed_batch_forward(x, *args, adapter_names=adapter_names, **kwargs)
        adapters = self.unmerged_adapters()
        if self.merged and not adapters:
            return self.base_layer(x, *args, **kwargs)
        self._check_values(adapters, x)
        return self._adapted_forward(x, adapters, *args, **kwargs)

    def _adapted_forward(self, x: Tensor, adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Call the base layer, whatever it is, and add the updates of these adapters."""
        result = self.base_layer(x, *args, **kwargs)
        dtype = result.dtype
        for adapter_name in adapters:
            result = self._add_update(result, x, adapter_name)
        return result.to(dtype)

    def _check_values(self, adapters: list[str], like: Tensor) -> None:
        """Raise if an adapter is on the meta device, and what it would be applied to is not."""
        containers = [getattr(self, name) for name in self.saved_names]
        empty = [
            adapter_name
            for adapter_name in adapters
            for container in containers
            if adapter_name in container and is_empty(container, adapter_name)
        ]
        if empty and like.device.type != "meta":
            raise ValueError(
                f"the adapter {empty[0]!r} is on the meta device, so it has no values, but its input has; load the "
                "adapter, or call `to_empty` and load its state, before the model is called"
            )

    def _check_adapter_names(self, adapter_names: list[str], samples: int) -> None:
        if samples != len(adapter_names):
            raise ValueError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {samples} respectively. Give one name for each sample; if you did, this "
                "layer sees something else than one row for each sample, so leave it out of mixed batches "
                "(`exclude_modules`), or call the model once for each adapter, after `set_adapter`"
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )

    def _mixed_batch_forward(self, x: Tensor, *args: Any, adapter_names: list[str], **kwargs: Any) -> Tensor:
        """Run inference with one adapter name for each sample; "__base__" stands for no adapter."""
        self._check_values(adapter_names, x)
        result = self.base_layer(x, *args, **kwargs)
        rows, parts = [], []
        for adapter_name in sorted(set(adapter_names) & self.deep_lora_U.keys()):
            own = torch.tensor([i for i, name in enumerate(adapter_names) if name == adapter_name], device=x.device)
            parts.append(self._add_update(result[own], x[own], adapter_name).to(result.dtype))
            rows.append(own)
        return result.index_copy(0, torch.cat(rows), torch.cat(parts)) if rows else result

    def set_scale(self, adapter: str, scale: float) -> None:
        """Multiply the update of that adapter by `scale` (1 is the trained one).

        Raises:
            ValueError: the adapter is merged; so in the two methods below.
        """
        if adapter not in self.scaling:
            return
        if scale != self.scaling[adapter]:
            self.check_scalable(adapter)
        self.scaling[adapter] = float(scale)

    def scale_layer(self, scale: float) -> None:
        """Multiply the current scale of all active adapters."""
        for adapter_name in self.active_adapters:
            if adapter_name in self.scaling:
                self.set_scale(adapter_name, self.scaling[adapter_name] * scale)

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the current scale of all active adapters; None resets it to 1."""
        for adapter_name in self.active_adapters:
            if adapter_name in self.scaling:
                self.set_scale(adapter_name, 1.0 if scale is None else self.scaling[adapter_name] / scale)

    def extra_repr(self) -> str:
        return quantization_extra_repr(self)

    def __repr__(self) -> str:
        return "deep_lora." + super().__repr__()
