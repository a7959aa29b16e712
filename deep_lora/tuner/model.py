"""`DeepLoraModel`: puts the adapted layers into a model, the way PEFT expects of a tuner."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTuner, find_parameter_name_by_module
from peft.utils import get_quantization_kwargs
from peft.utils.other import get_pattern_key, match_target_against_key
from torch import Tensor, nn

from deep_lora.config import DeepLoraConfig
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers, shared_places
from deep_lora.layers.first_backward import unwatch, watch
from deep_lora.layers.kinds import wrapped_layer
from deep_lora.layers.module import AdaptedModule
from deep_lora.targets import is_all_linear
from deep_lora.tuner.experts import name_experts_, rank_patterns_accepted
from deep_lora.tuner.heads import add_head_
from deep_lora.tuner.loading import keep_as_configured_, settle_saved_whole_
from deep_lora.tuner.mixed_batch import adapter_names_injected
from deep_lora.tuner.recomputing import remember_disabled_
from deep_lora.tuner.targets import check_apart, check_is_called, is_target, linear_targets, warn_of_unmatched_depths
from deep_lora.tuner.tying import (
    save_with_embedding_,
    saves_any,
    share_rows_,
    share_saved_whole_,
    tied_with_embedding,
)
from deep_lora.tuner.untying import part_shared_weights_, ties_as_configured
from deep_lora.tuner.weighted import WeightedAdapters
from deep_lora.weights.offload import check_biases_here
from deep_lora.weights.reading import weight_is_read
from deep_lora.weights.saved import check_state


class DeepLoraModel(WeightedAdapters, BaseTuner):
    """The tuner behind `get_peft_model(model, DeepLoraConfig(...))`."""

    prefix = "deep_lora_"
    tuner_layer_cls = DeepLoraLayer
    _places: dict[int, list[tuple[nn.Module, str]]]

    # It depends on the config alone, and LoRA's is exactly what is needed here.
    _check_add_weighted_adapter = LoraModel._check_add_weighted_adapter

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put the adapter into the model, as PEFT does; experts are named as LoRA names them.

        It is in float32 on a base in half precision, also where nobody asks PEFT for that cast afterwards.
        """
        added = name_experts_(self.peft_config[adapter_name], model)
        if self.peft_config[adapter_name].bias != "none":
            check_biases_here(model)
        self._places = shared_places(model)
        with rank_patterns_accepted(added):
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        self._places = {}
        names = [*self.targeted_module_names, *self.targeted_parameter_names]
        warn_of_unmatched_depths(self.peft_config[adapter_name], names)
        share_rows_(model, self.peft_config[adapter_name], adapter_name)
        share_saved_whole_(model, self.peft_config[adapter_name], adapter_name)
        self._cast_adapter_dtype(adapter_name)
        watch(model)

    def disable_adapter_layers(self) -> None:
        """Disable all adapters; what is checkpointed meanwhile is computed again without them."""
        super().disable_adapter_layers()
        remember_disabled_(self.model)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        unwatch(self.model)
        self._places = shared_places(self.model)
        with ties_as_configured(self.model):
            return super()._unload_and_optionally_merge(*args, **kwargs)

    def _check_new_adapter_config(self, config: DeepLoraConfig) -> None:
        super()._check_new_adapter_config(config)
        if not config.target_parameters:
            return
        wanted = set(config.target_parameters)
        for name, other in self.peft_config.items():
            if other is not config and other.target_parameters and set(other.target_parameters) != wanted:
                raise ValueError(
                    "When using multiple adapters with `target_parameters`, all adapters must target the same set of "
                    f"parameters, but got {sorted(wanted)} for the new adapter and {sorted(other.target_parameters)} "
                    f"for adapter '{name}'."
                )

    def _check_tied_modules(self, model: nn.Module, peft_config: DeepLoraConfig) -> None:
        """Ask the model which embedding is its own (GPT-2's is `wte`) and what is tied to it; PEFT knows two names."""
        peft_config.target_modules_to_tie = peft_config.modules_to_tie = None
        tied = self._get_module_names_tied_with_embedding() if peft_config.ensure_weight_tying else []
        together = [self._embedding_name(), *tied] if tied else []
        if saves_any(peft_config, together):
            save_with_embedding_(peft_config, self.model, together[0], tied)
        elif self._targets_any(peft_config, together):
            self._add_targets_to_tie(peft_config, tied)
        else:
            super()._check_tied_modules(model, peft_config)

    @staticmethod
    def _check_tied_module_exists(peft_config: DeepLoraConfig, key: str) -> bool:
        """Tell whether the module of that full name is tied; a part of a name could be another module's."""
        return key in (getattr(peft_config, "target_modules_to_tie", None) or [])

    def _add_targets_to_tie(self, peft_config: DeepLoraConfig, tied_weight_keys: list[str]) -> None:
        """Note what is tied, and target the embedding whose adapter it shares."""
        peft_config.target_modules_to_tie = set(tied_weight_keys)
        name, targets = self._embedding_name(), peft_config.target_modules
        if self._targets_any(peft_config, [name]):
            return
        if isinstance(targets, str):
            peft_config.target_modules = rf"(?:{targets}|^{re.escape(name)}$)"
        else:
            peft_config.target_modules = {*(targets or ()), name}  # type: ignore[assignment]

    def _tied_source(self) -> DeepLoraLayer:
        embedding = self.model.get_input_embeddings()
        if not isinstance(embedding, DeepLoraLayer):
            raise ValueError(
                f"`ensure_weight_tying` shares the adapter of the input embedding, {self._embedding_name()!r}, which "
                "has none; do not exclude it, or leave `ensure_weight_tying` out"
            )
        return embedding

    def _embedding_name(self) -> str:
        return find_parameter_name_by_module(self.model, self.model.get_input_embeddings())

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        return tied_with_embedding(self.model)

    @staticmethod
    def _targets_any(config: DeepLoraConfig, names: list[str]) -> bool:
        targets = config.target_modules or []
        if isinstance(targets, str):
            return any(match_target_against_key(targets, name) for name in names)
        return any(name == target or name.endswith(f".{target}") for name in names for target in targets)

    def _prepare_adapter_config(self, peft_config: DeepLoraConfig, model_config: dict[str, Any]) -> DeepLoraConfig:
        add_head_(peft_config, self.model)
        if is_all_linear(peft_config.target_modules):
            peft_config.target_modules = linear_targets(peft_config, self.model)  # type: ignore[assignment]  # as PEFT
        check_apart(peft_config, self.model)
        return peft_config

    _check_target_module_exists = staticmethod(is_target)

    def _create_and_replace(
        self,
        peft_config: DeepLoraConfig,
        adapter_name: str,
        target: Any,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        *,
        parameter_name: str | None = None,
    ) -> None:
        if current_key is None:
            raise ValueError("Current Key shouldn't be `None`")
        check_is_called(self.model, current_key)
        settings: dict[str, Any] = {
            "r": _pattern_value(peft_config.rank_pattern, current_key, peft_config.r),
            "depth": _pattern_value(peft_config.depth_pattern, current_key, peft_config.depth),
            "config": peft_config,
        }
        if self._check_tied_module_exists(peft_config, current_key):
            settings["tied_layer"] = self._tied_source()
        if isinstance(target, DeepLoraLayer) and not (target.nests and adapter_name in target.deep_lora_U):
            target.update_layer(adapter_name, **settings)
            return
        new_module = self._create_new_module(
            adapter_name, target, parameter_name=parameter_name, **settings, **get_quantization_kwargs(self.model)
        )
        if parameter_name in (None, "weight"):
            module_name = current_key if parameter_name is None else current_key.rpartition(".")[0]
            new_module.weight_is_read |= weight_is_read(self.model, module_name)
        if adapter_name not in self.active_adapters:
            new_module.requires_grad_(False)
        self._replace_module(parent, target_name, new_module, target)

    @staticmethod
    def _create_new_module(
        adapter_name: str,
        target: Any,
        **kwargs: Any,
    ) -> AdaptedModule:
        return wrapped_layer(target, adapter_name, **kwargs)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's default also assigns `weight`, which fails for merged tensors (TrainableTokensWrapper); the layer
        # moved its adapter to the device of the base layer when it made it. PEFT also replaces a module in one place
        # where it has several, all of which a merged update would change.
        places = self._places.pop(id(child), [(parent, child_name)])
        for holder, name in places:
            setattr(holder, name, new_module)
        if len(places) > 1:
            self._places[id(new_module)] = places

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # PEFT makes new, trainable parameters of those that it casts, which unfreezes subspaces and parts tied tensors.
        for layer in adapted_layers(self.model).values():
            layer._settle()  # PEFT has just dispatched the model again, if parts of it are offloaded
            if not autocast_adapter_dtype:
                layer.bring_to_base(adapter_name, cast=True)
        settle_saved_whole_(self.model, adapter_name)
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype=autocast_adapter_dtype)
        keep_as_configured_(self.model, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Refuse what does not fit before any of it is loaded."""
        state: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(model, *args, **kwargs)
        for name, layer in adapted_layers(model).items():
            check_state(layer, state, f"{name}.")
        return state

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        with adapter_names_injected(self, adapter_names, kwargs.get("num_beams")):
            yield

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
        *,
        dequantize: bool = False,
    ) -> nn.Module:
        """Merge the adapters into the base model, and return it.

        Args:
            progressbar: show one.
            safe_merge: refuse a weight that is not finite.
            adapter_names: the adapters to merge; None merges the active ones.
            dequantize: turn adapted layers with quantized weights into linear layers in floating point first, so that
                merging does not round the update to what the quantized weights can hold; they need more memory then.
        """
        if dequantize:
            for layer in adapted_layers(self.model).values():
                layer.dequantize_()
        return super().merge_and_unload(progressbar, safe_merge, adapter_names)

    def _check_merge_allowed(self) -> None:
        """Check every layer, and part weights that others share; PEFT calls this before anything is merged."""
        super()._check_merge_allowed()
        for layer in adapted_layers(self.model).values():
            layer.check_mergeable()
        part_shared_weights_(self.model)


def _pattern_value(pattern: dict[str, int], key: str, default: int) -> int:
    return pattern.get(get_pattern_key(pattern.keys(), key), default)
