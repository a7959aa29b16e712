"""`DeepLoraLayer`: what every adapted layer holds and how it starts (merging and scaling: `deep_lora.layers.merging`).

The concrete layers (linear, embedding, convolution, parameter) say how the update acts on their input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import _get_in_out_features
from peft.utils import resolve_quantization_backend
from torch import Tensor, nn

from deep_lora.files import FACTOR_NAMES
from deep_lora.functional import auto_core_scale, cores_at, delta_weight, fold_cores
from deep_lora.layers.bound import bound_factor, new_bound
from deep_lora.layers.merging import MergeableLayer
from deep_lora.layers.start import draw_start_, save_rounded_start, subtracted_start
from deep_lora.sharded import whole

if TYPE_CHECKING:
    from deep_lora.config import DeepLoraConfig
    from deep_lora.layers.gradient import GradientOperator

BASES = ("deep_lora_U", "deep_lora_V")


class DeepLoraLayer(MergeableLayer):
    """State and behaviour shared by all adapted layers; mixed into an `nn.Module`.

    Parameters, keyed by adapter name: `deep_lora_U` (out, r), `deep_lora_core` (n, r, r), `deep_lora_V` (in, r).
    `deep_lora_start` is what the diagonals of the cores held at the start; a buffer, so that it is rounded, moved and
    saved just as they are; so is `deep_lora_bound`, the largest norm that the update can have, if the config bounds it.
    The rest of `other_param_names` follows from the config and is not saved.
    """

    adapter_layer_names = FACTOR_NAMES
    other_param_names = (
        "r", "depth", "variant", "init_scale", "core_scale", "scaling", "lenders",
        "deep_lora_dropout", "deep_lora_start", "deep_lora_bound",
    )  # fmt: skip
    saved_names = (*adapter_layer_names, "deep_lora_start", "deep_lora_bound")
    supports_dropout = True

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
        _get_embed_scale: Callable[[], Tensor | None]

    def __init__(self, base_layer: nn.Module, **kwargs: Any) -> None:
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(), get_apply_tensor_subclass=kwargs.get("get_apply_tensor_subclass")
        )
        self.deep_lora_U = nn.ParameterDict({})
        self.deep_lora_core = nn.ParameterDict({})
        self.deep_lora_V = nn.ParameterDict({})
        self.deep_lora_dropout = nn.ModuleDict({})
        self.r: dict[str, int] = {}
        self.depth: dict[str, int] = {}
        self.variant: dict[str, str] = {}
        self.init_scale: dict[str, float] = {}
        self.core_scale: dict[str, float] = {}
        self.deep_lora_start = BufferDict({}, persistent=True)
        self.deep_lora_bound = BufferDict({}, persistent=True)
        self.scaling: dict[str, float] = {}
        self.lenders: dict[str, DeepLoraLayer] = {}  # of a tied head: the embedding whose parameters it uses
        self._disable_adapters = False
        self.merged_adapters = []
        self.cast_input_dtype_enabled = True
        self.kwargs = kwargs
        self.in_features, self.out_features = self._features()
        self.register_state_dict_post_hook(save_rounded_start)

    def _features(self) -> tuple[int, int]:
        """(in, out) of the update; ZeRO-3 and quantised layers keep their true shape elsewhere, PEFT knows where."""
        in_features, out_features = _get_in_out_features(self.get_base_layer())
        if in_features is None or out_features is None:
            raise TypeError(f"deep_lora cannot read the shape of a {type(self.get_base_layer()).__name__}")
        return in_features, out_features

    # ---- making an adapter -------------------------------------------------------------------------------------------

    def update_layer(
        self,
        adapter_name: str,
        r: int,
        depth: int,
        config: DeepLoraConfig,
        tied_layer: DeepLoraLayer | None = None,
    ) -> None:
        """Add (or replace) the adapter of that name; `tied_layer` lends its parameters to a tied output head."""
        if r <= 0:
            raise ValueError(f"`r` should be a positive integer value but the value passed is {r}")
        if config.deep_lora_dropout > 0 and not self.supports_dropout:
            raise ValueError(
                f"deep_lora.{type(self).__name__} does not support `deep_lora_dropout`, got "
                f"{config.deep_lora_dropout}; set it to 0 or do not target this module"
            )
        r = max(self.in_features, self.out_features) if config.variant == "wide" else r
        scale = self._core_scale(config, r, config.num_cores(depth))
        if tied_layer is not None:  # the very same cores, so patterns and rules for this module's own name do not count
            r, depth, scale = (getattr(tied_layer, name)[adapter_name] for name in ("r", "depth", "core_scale"))
            self.lenders[adapter_name] = tied_layer
        self.r[adapter_name], self.depth[adapter_name] = r, depth
        self.variant[adapter_name] = config.variant
        self.core_scale[adapter_name], self.scaling[adapter_name] = scale, 1.0
        self.init_scale[adapter_name] = config.init_scale
        self.deep_lora_dropout[adapter_name] = (
            nn.Dropout(config.deep_lora_dropout) if config.deep_lora_dropout > 0 else nn.Identity()
        )
        if tied_layer is not None:
            self._borrow_parameters(adapter_name)
        else:
            self._create_parameters(adapter_name, r, config.num_cores(depth))
            self.reset_parameters(adapter_name, config)
            self._set_start(adapter_name, config, scale)
            self._set_bound(adapter_name, config)
            self._move_adapter_to_device_of_base_layer(adapter_name)
        if config.freeze_subspaces:
            self.freeze_bases(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _core_scale(self, config: DeepLoraConfig, r: int, num_cores: int) -> float:
        if config.core_scale != "auto":
            return float(config.core_scale)
        if config.variant != "compressed":
            return 1.0
        return self._auto_core_scale(r, config.init_scale, num_cores)

    def _auto_core_scale(self, r: int, init_scale: float, num_cores: int) -> float:
        return auto_core_scale(r, init_scale)

    def _create_parameters(self, adapter_name: str, r: int, num_cores: int) -> None:
        self.deep_lora_U[adapter_name] = nn.Parameter(torch.empty(self.out_features, r))
        self.deep_lora_core[adapter_name] = nn.Parameter(torch.empty(num_cores, r, r))
        self.deep_lora_V[adapter_name] = nn.Parameter(torch.empty(self.in_features, r))

    def _set_start(self, adapter_name: str, config: DeepLoraConfig, core_scale: float) -> None:
        if config.subtract_start and config.variant == "compressed":
            stored = torch.tensor(config.init_scale / core_scale)
            self.deep_lora_start[adapter_name] = stored.to(self.deep_lora_core[adapter_name].device)
        elif adapter_name in self.deep_lora_start:
            del self.deep_lora_start[adapter_name]

    def _set_bound(self, adapter_name: str, config: DeepLoraConfig) -> None:
        norm = config.max_update_norm
        if norm is not None:
            self.deep_lora_bound[adapter_name] = new_bound(self, adapter_name, norm, loading=config.inference_mode)
        elif adapter_name in self.deep_lora_bound:
            del self.deep_lora_bound[adapter_name]

    def base_matrix(self) -> Tensor:
        """The base weight as a matrix, (out, in) or (in, out); of stacked experts one for each."""
        return self.get_base_weight().flatten(1)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT calls this after loading onto the meta device, which parts shared tensors.
        if adapter_name in self.lenders:
            self._borrow_parameters(adapter_name)
        elif adapter_name in self.deep_lora_core and not self.deep_lora_core[adapter_name].is_meta:
            super()._move_adapter_to_device_of_base_layer(adapter_name, device)

    def _borrow_parameters(self, adapter_name: str) -> None:
        """A tied head has the transposed weight: it shares the very parameters with U and V exchanged."""
        source = self.lenders[adapter_name]
        self.deep_lora_U[adapter_name] = source.deep_lora_V[adapter_name]
        self.deep_lora_core[adapter_name] = source.deep_lora_core[adapter_name]
        self.deep_lora_V[adapter_name] = source.deep_lora_U[adapter_name]
        for name in ("deep_lora_start", "deep_lora_bound"):
            if adapter_name in getattr(source, name):
                getattr(self, name)[adapter_name] = getattr(source, name)[adapter_name].clone()

    def reset_parameters(self, adapter_name: str, config: DeepLoraConfig) -> None:
        """Draw the start of that adapter (see `deep_lora.layers.start.draw_start_`)."""
        U, core, V = (getattr(self, name)[adapter_name] for name in self.adapter_layer_names)
        draw_start_(U, core, V, config, self.core_scale[adapter_name])

    def freeze_bases(self, adapter_name: str) -> None:
        """Keep U and V of that adapter fixed (they are saved all the same); survives switching adapters."""
        self.frozen_peft_weight_names = {**self.frozen_peft_weight_names, adapter_name: BASES}
        self._freeze_non_trainable_peft_weights(adapter_name)

    def at_start(self, adapter_name: str) -> bool:
        """Whether the cores of a compressed adapter are as they were drawn: then nothing is lost with its U and V."""
        core = whole(self.deep_lora_core[adapter_name].detach())
        stored = subtracted_start(self, adapter_name)
        if stored is not None:
            return cores_at(core, stored.to(core.device))
        # as the config says, but for the rounding of weights in half precision, which the adapter may have had
        start = self.init_scale[adapter_name] / self.core_scale[adapter_name]
        return cores_at(core, start, tolerance=torch.finfo(torch.bfloat16).eps)

    # ---- the update --------------------------------------------------------------------------------------------------

    def folded_core(self, adapter_name: str) -> Tensor:
        """The r x r middle of the update (see `deep_lora.functional.fold_cores`), bound and scaling included."""
        core, transposed = whole(self.deep_lora_core[adapter_name]), adapter_name in self.lenders
        start = subtracted_start(self, adapter_name)
        folded = fold_cores(core, self.core_scale[adapter_name], start, transposed=transposed)
        if adapter_name in self.deep_lora_bound:
            U, V = (whole(getattr(self, name)[adapter_name]) for name in BASES)
            folded = (folded * bound_factor(U, folded, V, self.deep_lora_bound[adapter_name])).to(folded.dtype)
        scaling = self.scaling[adapter_name]
        return folded if scaling == 1.0 else folded * scaling

    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
        """`(U, folded, V)` with `dW = U folded V^T`, all in U's dtype (a trainer may have cast the cores alone)."""
        U, V = whole(self.deep_lora_U[adapter_name]), whole(self.deep_lora_V[adapter_name])
        return U, self.folded_core(adapter_name).to(U.dtype), V

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """The dense update in the layout of the base weight."""
        return self._base_layout(delta_weight(*self.factors(adapter_name)))

    def _get_additive_delta(self, adapter_name: str) -> Tensor:
        return self.get_delta_weight(adapter_name)

    def _base_layout(self, delta: Tensor) -> Tensor:
        return delta

    def _weight_is_lent(self, adapter_name: str) -> bool:
        lender = self.lenders.get(adapter_name)
        return lender is not None and lender.get_base_layer().weight is self.get_base_layer().weight

    def gradient_operator(self, x: Tensor, grad_output: Tensor) -> GradientOperator:
        """How `G = dL/dW` of one call acts on blocks of columns; concrete layers that can be initialised have it."""
        raise NotImplementedError(f"deep_lora.{type(self).__name__} has no gradient operator")

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True
