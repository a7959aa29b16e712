"""Merge the updates of a layer into its base weight and out again, and scale them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor

from deep_lora.functional import add_to_weight
from deep_lora.sharded import spread_like


class MergeableLayer(BaseTunerLayer):
    """The part of an adapted layer that changes its base weight; `get_delta_weight` says by what."""

    scaling: dict[str, float]

    if TYPE_CHECKING:  # given by the layer or inherited from PEFT, whose releases annotate differently
        get_base_weight: Callable[[], Tensor]
        set_base_weight: Callable[[Tensor], None]
        get_delta_weight: Callable[[str], Tensor]
        merged_adapters: list[str]
        active_adapters: list[str]

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the active (or given) adapters to the base weight.

        Args:
            safe_merge: work on a copy and refuse a result that is not finite, leaving the weight untouched.
            adapter_names: adapters to merge; None merges the active ones.
        """
        for adapter_name in check_adapters_to_merge(self, adapter_names):
            if adapter_name not in self._get_available_adapters():
                continue
            if self._weight_is_lent(adapter_name):  # the embedding it is tied to changes the common weight
                self.merged_adapters.append(adapter_name)
                continue
            weight = self.get_base_weight()
            weight = weight.clone() if safe_merge else weight
            weight = self._with_update(weight, adapter_name)
            if safe_merge and not torch.isfinite(weight).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter_name} seems to be broken")
            self.set_base_weight(weight)
            self.merged_adapters.append(adapter_name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract all merged updates again."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            adapter_name = self.merged_adapters.pop()
            if self._weight_is_lent(adapter_name):
                continue
            weight = self.get_base_weight()
            weight = self._with_update(weight, adapter_name, sign=-1)
            self.set_base_weight(weight)

    def _weight_is_lent(self, adapter_name: str) -> bool:
        """Whether another layer, to which this one is tied, merges that adapter into the same weight."""
        return False

    def _with_update(self, weight: Tensor, adapter_name: str, sign: int = 1) -> Tensor:
        """`weight + sign dW`, in place where the dtype of the weight can add."""
        update = spread_like(self.get_delta_weight(adapter_name).to(weight.device), weight)
        if weight.dtype.itemsize > 1:
            return weight.add_(update, alpha=sign)
        return add_to_weight(weight, sign * update)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Multiply the update of that adapter by `scale` (1 is the trained one)."""
        if adapter in self.scaling:
            self.scaling[adapter] = float(scale)

    def scale_layer(self, scale: float) -> None:
        """Multiply the current scale of all active adapters."""
        for adapter_name in self.active_adapters:
            if adapter_name in self.scaling:
                self.scaling[adapter_name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the current scale of all active adapters; None resets it to 1."""
        for adapter_name in self.active_adapters:
            if adapter_name in self.scaling:
                self.scaling[adapter_name] = 1.0 if scale is None else self.scaling[adapter_name] / scale
