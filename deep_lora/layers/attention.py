"""Deep LoRA on `nn.MultiheadAttention`: one adapter on its `in_proj_weight`, and one on its `out_proj`."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from deep_lora.config import DeepLoraConfig
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.linear import Linear
from deep_lora.layers.parameter import ParamWrapper
from deep_lora.layers.swapping import call_with


def _of_the_base(name: str) -> property:
    return property(lambda self: getattr(self.get_base_layer(), name), doc=f"`{name}` of the base layer.")


class MultiheadAttention(ParamWrapper):
    """The whole attention: `in_proj_weight` (3 embed, embed) has an adapter here, and `out_proj` one of its own.

    Both have the rank and depth of the attention. What its owner reads of it, such as the fast path of
    `nn.TransformerEncoderLayer`, is that of the base layer, the weights with the active updates. Dropout has one mask
    for all samples of a call.
    """

    nests: ClassVar[bool] = False
    supports_dropout: ClassVar[bool] = True
    supported: ClassVar[str] = "`torch.nn.MultiheadAttention`"

    embed_dim, kdim, vdim = _of_the_base("embed_dim"), _of_the_base("kdim"), _of_the_base("vdim")
    num_heads, head_dim, dropout = _of_the_base("num_heads"), _of_the_base("head_dim"), _of_the_base("dropout")
    batch_first, in_proj_bias, out_proj = (
        _of_the_base("batch_first"), _of_the_base("in_proj_bias"), _of_the_base("out_proj")
    )  # fmt: skip
    bias_k, bias_v, add_zero_attn = _of_the_base("bias_k"), _of_the_base("bias_v"), _of_the_base("add_zero_attn")
    _qkv_same_embed_dim, merge_masks = _of_the_base("_qkv_same_embed_dim"), _of_the_base("merge_masks")

    @classmethod
    def accepts(cls, base: nn.Module, quantized_kind: str | None) -> bool:
        return isinstance(base, nn.MultiheadAttention)

    def __init__(self, base_layer: nn.Module, adapter_name: str, *, config: DeepLoraConfig, **kwargs: Any) -> None:
        super().__init__(base_layer, adapter_name, config=config, parameter_name="in_proj_weight", **kwargs)
        self.bare_parameter, self.weight_is_read = None, True  # it is targeted as a module

    def _features(self) -> tuple[int, int]:
        if self.get_base_layer().in_proj_weight is None:
            raise ValueError(
                "deep_lora.MultiheadAttention got an attention whose keys or values differ in width from its queries, "
                "so it has no `in_proj_weight`; name `q_proj_weight`, `k_proj_weight`, `v_proj_weight` as "
                "`target_parameters`"
            )
        return super()._features()

    def update_layer(
        self, adapter_name: str, r: int, depth: int, config: DeepLoraConfig, tied_layer: DeepLoraLayer | None = None
    ) -> None:
        super().update_layer(adapter_name, r, depth, config, tied_layer=tied_layer)
        base = self.get_base_layer()
        if isinstance(base.out_proj, DeepLoraLayer):
            base.out_proj.update_layer(adapter_name, r, depth, config)
        else:
            base.out_proj = Linear(base.out_proj, adapter_name, r=r, depth=depth, config=config, **self.kwargs)
            base.out_proj.weight_is_read = True

    @property
    def in_proj_weight(self) -> Tensor:
        """The weight with the active updates."""
        return self._updated(self.get_param())

    def forward(self, x: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        query = kwargs.pop("query") if x is None else x
        if kwargs.pop("adapter_names", None) is not None:
            raise TypeError(
                "deep_lora.MultiheadAttention does not support mixed adapter batches, since its weights have no "
                "samples; call the model once for each adapter, after `set_adapter`"
            )
        base, weight = self.get_base_layer(), self.in_proj_weight
        if weight is base.in_proj_weight:
            return base(query, *args, **kwargs)
        return call_with(base, "in_proj_weight", weight, query, *args, **kwargs)

    def export_obstacles(self) -> list[str]:
        """Name what PEFT 0.21 does: it assigns the merged `out_proj` and then merges it once more."""
        return ["an `out_proj` whose update is added twice"]

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Merge both matrices if asked, and return the bare attention."""
        base = super().unload_and_optionally_merge_module(merge, safe_merge, adapter_names)
        projection: Any = base.out_proj
        if merge:
            projection.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        base.out_proj = projection.get_base_layer()
        return base
