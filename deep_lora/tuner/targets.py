"""Which modules are adapted, where PEFT's own answer would fail, or adapt what has no effect."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, _get_in_out_features, _maybe_include_all_linear_layers
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from torch.nn.parameter import is_lazy
from transformers import PreTrainedModel

from deep_lora.config import DeepLoraConfig
from deep_lora.layers.finding import adapted_layers
from deep_lora.layers.linear import adds_product
from deep_lora.targets import ALL_LINEAR
from deep_lora.tuner.heads import saved_whole

# Fused kernels of these architectures read the weights of these modules directly and would ignore an adapter.
_MAMBA_LIKE = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
_READ_AS_RAW_WEIGHTS = {"out_proj", "conv1d"}


def is_target(config: DeepLoraConfig, name: str) -> Any:
    """Tell, as PEFT does, whether a module is adapted; what is saved whole is not, also by the end of its name alone.

    With `modules_to_save=["classifier"]` PEFT trains DistilBERT's `pre_classifier` whole too, but does not see that it
    may not be adapted then.
    """
    if whole := saved_whole(config.modules_to_save, name):
        config = copy.copy(config)
        config.modules_to_save = [re.escape(whole)]
    return BaseTuner._check_target_module_exists(config, name)


def linear_targets(config: DeepLoraConfig, model: nn.Module) -> set[str]:
    """Return the names of the layers that "all-linear" means in this model.

    These are PEFT's, all linear layers but output embeddings, without those that are saved whole, excluded, in a layer
    that `layers_to_transform` leaves out, whose weights are read without a call, whose parameters are adapted, or, with
    a warning, that another adapter saves whole or that do not return one vector of their width.

    Raises:
        ValueError: there is none, and no `target_parameters` either.
    """
    config, everything = copy.copy(config), copy.copy(config)
    everything.target_modules = ALL_LINEAR
    found = set()
    for name in _maybe_include_all_linear_layers(everything, model).target_modules:
        parent, _, last = name.rpartition(".")
        config.target_modules = [last]  # the last name alone, for which PEFT looks at the index of the layer
        in_layer = bool(parent) or config.layers_to_transform in (None, [])
        if (
            in_layer
            and not _has_no_inputs(model.get_submodule(name))
            and is_target(config, name)
            and not is_raw_weight(model, last)
        ):
            found.add(name)
    found -= _owners(model, config.target_parameters or ())
    found -= _of_other_adapters(model, found)
    unlike = {name for name in found if adds_product(model.get_submodule(name)) is None}
    if unlike:
        warnings.warn(
            f"'all-linear' leaves out {', '.join(sorted(unlike))}: no update can be added to what these modules "
            "return; name their weights in `target_parameters` to adapt them",
            stacklevel=2,
        )
    found -= unlike
    if not found and not config.target_parameters:
        raise ValueError(
            f"`target_modules='all-linear'` finds no linear layer to adapt in a {type(model).__name__}; name the "
            "modules to adapt, or fewer in `exclude_modules`, `modules_to_save` and `layers_to_transform`"
        )
    return found


def _has_no_inputs(layer: Any) -> bool:
    """Tell whether the weight of a layer is empty, and not only unknown as long as it has not been called."""
    return _get_in_out_features(layer)[0] == 0 and not is_lazy(layer.weight)


def _owners(model: nn.Module, parameters: Iterable[str]) -> set[str]:
    """Return the names of the modules that hold these parameters, which PEFT matches by the ends of their names."""
    ends = tuple(f".{name}" for name in parameters)
    return {name.rpartition(".")[0] for name, _ in model.named_parameters() if f".{name}".endswith(ends)}


def _of_other_adapters(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Return those of the names that lie in what other adapters train and save whole, and warn of them.

    Output embeddings are no target anyway; wrapped, PEFT does not know them again.
    """
    outputs = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    inside = {name: outer for outer, module in _wrappers(model).items() for name in names if _lies_in(name, outer)}
    left_out = sorted({outer for outer in inside.values() if model.get_submodule(outer) is not outputs})
    if left_out:
        warnings.warn(
            f"'all-linear' leaves out {', '.join(left_out)}, which another adapter of this model trains and saves "
            "whole; use a separate model to adapt them",
            stacklevel=2,
        )
    return set(inside)


def check_apart(config: DeepLoraConfig, model: nn.Module) -> None:
    """Check that nothing is adapted by one adapter and saved whole by another: PEFT could not save either.

    Raises:
        ValueError: something is.
    """
    for name in adapted_layers(model):
        if whole := saved_whole(config.modules_to_save, name):
            raise ValueError(
                f"{whole!r} is listed to be trained and saved whole, but another adapter of this model adapts "
                f"{name!r}; leave it out of `modules_to_save` ([] for no head), or use a separate model for this "
                "adapter"
            )
    ends = tuple(f".{name}" for name in config.target_parameters or ())
    for outer, wrapper in _wrappers(model).items():
        modules = [name for name, _ in wrapper.named_modules(prefix=outer) if is_target(config, name)]
        targets = modules + [name for name, _ in wrapper.named_parameters(outer) if f".{name}".endswith(ends)]
        if targets:
            raise ValueError(
                f"{outer!r} is targeted, wholly or in part, but another adapter of this model trains and saves it, or "
                "rows of it; leave it out (`exclude_modules`), or use a separate model for this adapter"
            )


def _wrappers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)}


def _lies_in(name: str, outer: str) -> bool:
    return f"{name}.".startswith(f"{outer}.")


def check_is_called(model: nn.Module, name: str) -> None:
    """Check that a module is called where it stands, and not read as a weight, so that an adapter has an effect.

    Raises:
        ValueError: one of Mamba's kernels reads it.
    """
    last = name.rpartition(".")[2]
    if is_raw_weight(model, last):
        raise ValueError(
            f"Module '{last}' is incompatible with Mamba-based models ({type(model).__name__}), whose kernels read the "
            f"weights of {sorted(_READ_AS_RAW_WEIGHTS)}. Please remove it from `target_modules`."
        )


def is_raw_weight(model: nn.Module, last: str) -> bool:
    """Tell whether the weight of modules called `last` is read by a kernel, without calling the module."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return model_type in _MAMBA_LIKE and last in _READ_AS_RAW_WEIGHTS


def warn_of_unmatched_depths(config: DeepLoraConfig, names: Iterable[str]) -> None:
    """Warn of a key of `depth_pattern` that matches none of the adapted names; PEFT does so for `rank_pattern`."""
    names = list(names)
    unmatched = [key for key in config.depth_pattern if not any(re.match(rf"(.*\.)?({key})$", name) for name in names)]
    if unmatched:
        warnings.warn(
            f"The following depth_pattern keys did not match any targeted module and were ignored: {unmatched}.",
            RuntimeWarning,
            stacklevel=3,
        )
