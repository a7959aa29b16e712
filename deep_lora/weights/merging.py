"""`Merging`: how the update of an adapted layer goes into the base weight, and comes out of it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from deep_lora.functional import add_to_weight
from deep_lora.sharded import spread_like
from deep_lora.weights.offload import weight_in_place
from deep_lora.weights.quantized import check_mergeable

ROUNDED = (
    "merging into quantized weights rounds the update to what they can hold, so that outputs change; call "
    "`merge_and_unload(dequantize=True)` to merge without that loss, or keep the adapter apart"
)


class Merging:
    """What an adapted layer does with its base weight; mixed in before PEFT's class of layers.

    Attributes:
        parameter_name: of the base weight in the base layer.
    """

    parameter_name: str = "weight"

    if TYPE_CHECKING:
        base_layer: Any
        quantization_backend: Any
        in_features: int
        out_features: int
        merged: bool
        merged_adapters: list[str]
        merged_scaling: dict[str, float]
        active_adapters: list[str]
        scaling: dict[str, float]
        deep_lora_U: nn.ParameterDict
        tied_to: dict[str, Any]
        get_base_layer: Any
        get_base_weight: Any
        set_base_weight: Any
        get_delta_weight: Any
        _get_available_adapters: Any

    def unmerged_adapters(self) -> list[str]:
        """Return the active adapters that the base weight does not hold already."""
        return [name for name in self.active_adapters if name in self.deep_lora_U and name not in self.merged_adapters]

    def check_scalable(self, adapter_name: str) -> None:
        """Refuse to rescale an adapter that is merged into the base weight at its old scale.

        Raises:
            ValueError: it is merged.
        """
        if adapter_name in self.merged_adapters:
            raise ValueError(
                f"the adapter {adapter_name!r} is merged, so another scale would have no effect; call "
                "`unmerge_adapter()` first, then scale and merge again"
            )

    def check_mergeable(self) -> None:
        """Refuse to merge into a weight that cannot be written, or with which the layer would compute something else.

        Raises:
            ValueError: the weight is quantized or computed; layers add their own reasons.
        """
        check_mergeable(self.quantization_backend)
        base, name = self.get_base_layer(), self.parameter_name
        if self.quantization_backend is None and name not in {**base._parameters, **base._buffers}:
            raise ValueError(
                f"`{name}` of a {type(base).__name__} is computed at every call, by weight or spectral normalization, "
                "pruning or another parametrization, so a merged update would be lost; make it a parameter first "
                "(`torch.nn.utils.parametrize.remove_parametrizations` for example), or keep the adapter separate"
            )

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the active (or given) adapters to the base weight.

        Args:
            safe_merge: work on a copy and refuse a result that is not finite, leaving the weight untouched.
            adapter_names: adapters to merge; None merges the active ones.

        Raises:
            ValueError: the base weight has no value or is quantized in a way that cannot be written, or the result is
                not finite and `safe_merge` is asked.
        """
        self.check_mergeable()
        if self.quantization_backend is not None:
            warnings.warn(ROUNDED, stacklevel=2)
        for adapter_name in check_adapters_to_merge(self, adapter_names):
            if adapter_name not in self._get_available_adapters():
                continue
            if not self._merged_elsewhere(adapter_name):
                with weight_in_place(self) as copied:
                    weight = self.get_base_weight()
                    weight = self._with_update(weight.clone() if safe_merge or copied else weight, adapter_name)
                    if safe_merge and not torch.isfinite(weight).all():
                        raise ValueError(
                            f"NaNs detected in the merged weights. The adapter {adapter_name} seems to be broken"
                        )
                    self.set_base_weight(weight)
            self.merged_adapters.append(adapter_name)
            self.merged_scaling[adapter_name] = self.scaling[adapter_name]

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract all merged updates again."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        while self.merged_adapters:
            adapter_name = self.merged_adapters.pop()
            by_now = self.scaling[adapter_name]
            self.scaling[adapter_name] = self.merged_scaling.pop(adapter_name, by_now)
            try:
                if not self._merged_elsewhere(adapter_name):
                    with weight_in_place(self) as copied:
                        weight = self.get_base_weight()
                        weight = self._with_update(weight.clone() if copied else weight, adapter_name, sign=-1)
                        self.set_base_weight(weight)
            finally:
                self.scaling[adapter_name] = by_now

    def _merged_elsewhere(self, adapter_name: str) -> bool:
        """Tell whether the layer that this one is tied to merges that adapter into the same weight."""
        source = self.tied_to.get(adapter_name)
        return source is not None and source.get_base_layer().weight is self.get_base_layer().weight

    def dequantize_(self) -> None:
        """Put a linear layer in the place of a quantized base layer, with the weight that this one stands for."""
        base = self.get_base_layer()
        if self.quantization_backend is None or base is not self.base_layer:
            return
        weight = self.get_base_weight()
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta").train(base.training)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        bias = getattr(base, "bias", None)
        if bias is not None:
            plain.bias = nn.Parameter(bias.data.to(weight.dtype), bias.requires_grad)
        self.base_layer, self.quantization_backend = plain, None

    def _with_update(self, weight: Tensor, adapter_name: str, sign: int = 1) -> Tensor:
        """Return `weight + sign dW`, in place where the dtype of the weight can add."""
        update = spread_like(self.get_delta_weight(adapter_name).to(weight.device), weight)
        if weight.dtype.itemsize > 1:
            return weight.add_(update, alpha=sign)
        return add_to_weight(weight, sign * update)
