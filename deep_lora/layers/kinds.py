"""The list of adapted layers, asked in order for one that takes a base layer. A new kind is entered here."""

from __future__ import annotations

from typing import Any

from torch.nn.parameter import is_lazy

from deep_lora.config import DeepLoraConfig
from deep_lora.layers.attention import MultiheadAttention
from deep_lora.layers.conv import Conv1d, Conv2d, Conv3d
from deep_lora.layers.embedding import Embedding
from deep_lora.layers.linear import Linear
from deep_lora.layers.module import AdaptedModule
from deep_lora.layers.parameter import ParamWrapper
from deep_lora.weights.quantized import quantization_backend

KINDS: tuple[type[AdaptedModule], ...] = (Linear, Embedding, Conv1d, Conv2d, Conv3d, MultiheadAttention)


def wrapped_layer(
    target: Any, adapter_name: str, *, config: DeepLoraConfig, parameter_name: str | None = None, **kwargs: Any
) -> AdaptedModule:
    """Make the adapted layer for a base layer, or for one parameter of it.

    Args:
        target: the base layer, or an adapted layer around it.
        adapter_name, config: of the adapter.
        parameter_name: adapt this parameter of the layer instead of the layer.
        kwargs: rank, depth and the like; see `AdaptedModule`.

    Raises:
        ValueError: if no adapted layer takes a base layer of this type, or it has no shape yet.
    """
    if parameter_name is not None:
        return ParamWrapper(target, adapter_name, parameter_name=parameter_name, config=config, **kwargs)
    base = target.get_base_layer() if hasattr(target, "get_base_layer") else target
    weight = getattr(base, "weight", None)
    if weight is not None and is_lazy(weight):
        raise ValueError(
            f"a {type(base).__name__} has no shape until it is called; call the model once, then add the adapter"
        )
    backend = quantization_backend(base, kwargs.get("get_apply_tensor_subclass"))
    quantized_kind = None if backend is None else backend.layer_type
    for kind in KINDS:
        if kind.accepts(base, quantized_kind):
            return kind.wrap(target, adapter_name, config=config, **kwargs)
    raise ValueError(
        f"Target module {target} is not supported. Currently, only the following modules are supported: "
        f"{', '.join(kind.supported for kind in KINDS)}; other weights can be reached with `target_parameters`."
    )
