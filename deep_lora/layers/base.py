"""`DeepLoraLayer`: what every adapted layer holds, how an adapter is made, merged and exported.

The concrete layers (linear, embedding, convolution, parameter) say how the update acts on their input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from deep_lora.config import DeepLoraConfig
from deep_lora.files import FACTOR_NAMES
from deep_lora.functional import auto_core_scale
from deep_lora.layers.gradient import GradientOperator
from deep_lora.layers.update import Update
from deep_lora.sharded import gathered
from deep_lora.weights.containers import Factors, check_adapter_name
from deep_lora.weights.merging import Merging
from deep_lora.weights.offload import device_of_base, fetched, offloading_hook, settle_
from deep_lora.weights.quantized import quantization_backend
from deep_lora.weights.reading import ReadWeight
from deep_lora.weights.saved import complete_state_, prepare_state_, settings_of
from deep_lora.weights.start import draw_start_, stored_scale, stores_differences

SUBSPACES = ("deep_lora_U", "deep_lora_V")


def wide_float(dtype: torch.dtype | None) -> torch.dtype | None:
    """Return a precision of at least 16 bits as it is, and None for what weights are quantized to.

    >>> wide_float(torch.bfloat16), wide_float(torch.int8)
    (torch.bfloat16, None)
    """
    return dtype if dtype is not None and dtype.is_floating_point and dtype.itemsize > 1 else None


class DeepLoraLayer(Merging, ReadWeight, BaseTunerLayer):
    """State and behavior shared by all adapted layers; mixed into an `nn.Module`.

    Parameters, keyed by adapter name: `deep_lora_U` (out, r), `deep_lora_core` (n, r, r), `deep_lora_V` (in, r).
    `deep_lora_start` is what the diagonals of the cores are at the start; a buffer, so that it is moved and saved just
    as they are. Cores that have a start are stored as differences from it where `differences` is set; those of
    earlier formats hold it, and it is rounded as they are. The rest of `other_param_names` follows from the
    config; what of it decides the numbers is saved in `deep_lora_settings`, and compared when the adapter is loaded.
    """

    adapter_layer_names = FACTOR_NAMES
    other_param_names = (
        "r", "depth", "variant", "init_scale", "core_scale", "outer_scale", "scaling", "tied_to",
        "differences", "deep_lora_dropout", "deep_lora_start", "deep_lora_settings",
    )  # fmt: skip
    saved_names = (*adapter_layer_names, "deep_lora_start", "deep_lora_settings")
    supports_dropout: ClassVar[bool] = True
    looks_up: ClassVar[bool] = False  # whether the input picks rows of V, as in an embedding
    shows_gradient: ClassVar[bool] = False  # whether there is a `gradient_operator`, from which subspaces can come
    bare_parameter: str | None = None  # name of a bare parameter that is adapted instead of a module
    nests: ClassVar[bool] = False  # whether a second adapter of one name wraps the layer once more

    if TYPE_CHECKING:  # inherited from PEFT, whose releases annotate differently
        get_base_layer: Callable[[], Any]
        get_base_weight: Callable[[], Tensor]
        set_base_weight: Callable[[Tensor], None]
        active_adapters: list[str]
        disable_adapters: bool
        merged: bool
        merged_adapters: list[str]
        frozen_peft_weight_names: dict[str, tuple[str, ...]]
        _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]
        _get_base_layer_device_and_dtype: Callable[[Any], tuple[torch.device | None, torch.dtype | None]]
        _get_embed_scale: Callable[[], Tensor | None]

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        self.base_layer = base_layer
        self.quantization_backend = quantization_backend(self.get_base_layer(), kwargs.get("get_apply_tensor_subclass"))
        self.deep_lora_U, self.deep_lora_core, self.deep_lora_V = Factors(), Factors(), Factors()
        self.deep_lora_dropout = nn.ModuleDict({})
        self.r: dict[str, int] = {}
        self.depth: dict[str, int] = {}
        self.variant: dict[str, str] = {}
        self.init_scale: dict[str, float] = {}
        self.core_scale: dict[str, float] = {}
        self.outer_scale: dict[str, float] = {}
        self.differences: dict[str, bool] = {}
        self.deep_lora_start = BufferDict({}, persistent=True)
        self.deep_lora_settings = BufferDict({}, persistent=True)
        self.scaling: dict[str, float] = {}
        self.tied_to: dict[str, DeepLoraLayer] = {}  # of a tied layer: the embedding whose parameters it shares
        self._disable_adapters = False
        self.merged_adapters = []
        self.merged_scaling: dict[str, float] = {}
        self.read_in_mixed_batch = {}
        self.cast_input_dtype_enabled = True
        self.kwargs = kwargs
        self.in_features, self.out_features = self._features()
        for name in getattr(self.get_base_layer(), "__constants__", ()):
            if not hasattr(self, name):  # some models read them, such as Whisper the strides of its convolutions
                setattr(self, name, getattr(self.get_base_layer(), name))
        self.register_state_dict_post_hook(complete_state_)
        self.register_load_state_dict_pre_hook(prepare_state_)

    def _features(self) -> tuple[int, int]:
        """Return (in, out); ZeRO-3 and quantized layers keep their true shape elsewhere, PEFT knows where."""
        in_features, out_features = _get_in_out_features(self.get_base_layer())
        if in_features is None or out_features is None:
            raise TypeError(f"deep_lora cannot read the shape of a {type(self.get_base_layer()).__name__}")
        return in_features, out_features

    # ---- making an adapter -------------------------------------------------------------------------------------------

    def update_layer(
        self, adapter_name: str, r: int, depth: int, config: DeepLoraConfig, tied_layer: DeepLoraLayer | None = None
    ) -> None:
        """Add (or replace) the adapter of that name; a tied layer shares the parameters of `tied_layer`."""
        check_adapter_name(adapter_name)
        self._settle()
        if r <= 0:
            raise ValueError(f"`r` should be a positive integer value but the value passed is {r}")
        if config.deep_lora_dropout > 0 and not self.supports_dropout:
            raise ValueError(
                f"deep_lora.{type(self).__name__} does not support `deep_lora_dropout`, got "
                f"{config.deep_lora_dropout}; set it to 0 or do not target this module"
            )
        r = max(self.in_features, self.out_features) if config.variant == "wide" else r
        scale = self._core_scale(config, r, config.num_cores(depth))
        self.tied_to.pop(adapter_name, None)
        if tied_layer is not None:  # the very same cores, so patterns and rules for this module's own name do not count
            r, depth, scale = (getattr(tied_layer, name)[adapter_name] for name in ("r", "depth", "core_scale"))
            self.tied_to[adapter_name] = tied_layer
        self.r[adapter_name], self.depth[adapter_name] = r, depth
        self.variant[adapter_name], self.init_scale[adapter_name] = config.variant, config.init_scale
        self.core_scale[adapter_name], self.scaling[adapter_name] = scale, 1.0
        self.outer_scale[adapter_name] = stored_scale(config)
        self.differences[adapter_name] = stores_differences(config)
        dropout = config.deep_lora_dropout
        self.deep_lora_dropout[adapter_name] = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        if tied_layer is not None:
            self._share_parameters(adapter_name)
        else:
            self._create_parameters(adapter_name, r, config.num_cores(depth))
            self.reset_parameters(adapter_name, config)
            self._set_start(adapter_name, config)
            self.bring_to_base(adapter_name, cast=True)
        self.deep_lora_settings[adapter_name] = settings_of(self, adapter_name)
        frozen = {name: names for name, names in self.frozen_peft_weight_names.items() if name != adapter_name}
        if config.freeze_subspaces:  # survives switching adapters
            frozen[adapter_name] = SUBSPACES
        self.frozen_peft_weight_names = frozen
        self._freeze_non_trainable_peft_weights(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _core_scale(self, config: DeepLoraConfig, r: int, num_cores: int) -> float:
        if config.core_scale != "auto":
            return float(config.core_scale)
        if config.variant != "compressed":
            return 1.0
        return stored_scale(config) * self._auto_core_scale(r, config.init_scale, num_cores)

    def _auto_core_scale(self, r: int, init_scale: float, num_cores: int) -> float:
        return auto_core_scale(r, init_scale)

    def _create_parameters(self, adapter_name: str, r: int, num_cores: int) -> None:
        self.deep_lora_U[adapter_name] = nn.Parameter(torch.empty(self.out_features, r))
        self.deep_lora_core[adapter_name] = nn.Parameter(torch.empty(num_cores, r, r))
        self.deep_lora_V[adapter_name] = nn.Parameter(torch.empty(self.in_features, r))

    def reset_parameters(self, adapter_name: str, config: DeepLoraConfig) -> None:
        """Draw the start of that adapter (see `deep_lora.weights.start.draw_start_`)."""
        U, core, V = (getattr(self, name)[adapter_name] for name in self.adapter_layer_names)
        draw_start_(U, core, V, config, self.core_scale[adapter_name], self.outer_scale[adapter_name])

    def _set_start(self, adapter_name: str, config: DeepLoraConfig) -> None:
        if config.subtract_start and config.variant == "compressed":
            stored = torch.tensor(config.init_scale / self.core_scale[adapter_name])
            self.deep_lora_start[adapter_name] = stored.to(self.deep_lora_core[adapter_name].device)
        elif adapter_name in self.deep_lora_start:
            del self.deep_lora_start[adapter_name]

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT calls this after loading onto the meta device; the values loaded are not to be rounded
        self.bring_to_base(adapter_name, device)

    def bring_to_base(self, adapter_name: str, device: torch.device | None = None, *, cast: bool = False) -> None:
        """Move an adapter to the device of the base layer, and cast it to the precision of that if asked."""
        if adapter_name in self.tied_to:  # loading onto the meta device parts shared tensors
            self._share_parameters(adapter_name)
            return
        known, dtype = self._place_of_base()
        for name in self.saved_names:
            tensors = getattr(self, name)
            if adapter_name in tensors and not tensors[adapter_name].is_meta:
                tensor = tensors[adapter_name]
                own = dtype if cast and tensor.is_floating_point() else None
                tensors[adapter_name] = tensor.to(device or known or tensor.device, dtype=own)

    def _place_of_base(self) -> tuple[torch.device | None, torch.dtype | None]:
        """Return the device of the base layer and the precision that adapters can have of it, as far as known."""
        base = self.get_base_layer()
        weight = getattr(base, "weight", getattr(base, "qweight", None))
        return device_of_base(base, weight), wide_float(self._get_base_layer_device_and_dtype(base)[1])

    def _settle(self) -> None:
        """Take the adapters out of accelerate's offload, before there are more or fewer of them."""
        containers = [getattr(self, name) for name in self.saved_names]
        if not any(map(offloading_hook, containers)):
            return
        for container in containers:
            settle_(container)
        for adapter_name, source in self.tied_to.items():
            if adapter_name in source.deep_lora_core:
                self._share_parameters(adapter_name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove the adapter of that name."""
        self._settle()
        super().delete_adapter(adapter_name)

    def _share_parameters(self, adapter_name: str) -> None:
        """Share the very parameters of the layer that this one is tied to; a head has its U and V exchanged."""
        source = self.tied_to[adapter_name]
        names = ("deep_lora_V", "deep_lora_U") if self.exchanges(adapter_name) else SUBSPACES
        self.deep_lora_U[adapter_name] = getattr(source, names[0])[adapter_name]
        self.deep_lora_core[adapter_name] = source.deep_lora_core[adapter_name]
        self.deep_lora_V[adapter_name] = getattr(source, names[1])[adapter_name]
        if adapter_name in source.deep_lora_start:
            self.deep_lora_start[adapter_name] = source.deep_lora_start[adapter_name].clone()

    def exchanges(self, adapter_name: str) -> bool:
        """Tell whether that adapter is tied to one that acts in the other direction, as a head's to an embedding's."""
        return adapter_name in self.tied_to and self.looks_up != self.tied_to[adapter_name].looks_up

    # ---- the update --------------------------------------------------------------------------------------------------

    def update(self, adapter_name: str) -> Update:
        """Gather what that adapter adds to the weight; every process has to call this where the weights are sharded."""
        core = gathered(fetched(self.deep_lora_core, adapter_name))
        start = fetched(self.deep_lora_start, adapter_name) if adapter_name in self.deep_lora_start else None
        if start is not None and not self.differences[adapter_name]:
            # Rounded as the cores were: some trainers cast only parameters, and a fresh adapter is to remain an
            # identity.
            start = start.to(core.dtype)
        return Update(
            gathered(fetched(self.deep_lora_U, adapter_name)),
            core,
            gathered(fetched(self.deep_lora_V, adapter_name)),
            self.core_scale[adapter_name],
            self.outer_scale[adapter_name],
            self.scaling[adapter_name],
            start,
            self.exchanges(adapter_name),
            self.differences[adapter_name],
        )

    @torch.no_grad()
    def at_start(self, adapter_name: str) -> bool:
        """Tell whether the cores of a compressed adapter are as they were drawn."""
        return self.update(adapter_name).at_start(self.init_scale[adapter_name])

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Return the dense update in the layout of the base weight."""
        return self._base_layout(self.update(adapter_name).dense())

    def _dropped_delta_weight(self, adapter_name: str) -> Tensor:
        """Return the dense update for a call that reads the weight: dropout has one mask of the input's features."""
        dropout, update = self.deep_lora_dropout[adapter_name], self.update(adapter_name)
        if self.training and isinstance(dropout, nn.Dropout):
            update = replace(update, V=update.V * dropout(update.V.new_ones(len(update.V), 1)))
        return self._base_layout(update.dense())

    def _base_layout(self, delta: Tensor) -> Tensor:
        return delta

    def gradient_operator(self, x: Tensor, grad_output: Tensor) -> GradientOperator:
        """Return `G = dL/dW` of one call as its products with blocks of columns."""
        raise NotImplementedError(f"deep_lora.{type(self).__name__} has no gradient operator")

    # ---- leaving -----------------------------------------------------------------------------------------------------

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def export_obstacles(self) -> list[str]:
        """Name what about the base layer makes PEFT's LoRA compute something else; nothing for most layers."""
        return []

    def lora_tensors(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        """Return `B` (..., out, r) and `A` (..., r, in) under the names and in the layout of PEFT's LoRA layer."""
        return {"lora_A.weight": A, "lora_B.weight": B}
