"""The adapter that is trained: deep_lora, lora, or any PEFT method described in a file."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import peft
import yaml
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from deep_lora import DeepLoraConfig
from training.errors import UsageError, reason_of
from training.models.loading import Base
from training.settings.adapter import AdapterArguments
from training.settings.files import read_mapping

PEFT_HEADS = ("classifier", "score")
# Of values, of names, of what is not installed, and of regular expressions.
_REFUSALS = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, ImportError, re.error)


def adapter_config(arguments: AdapterArguments, peft_task: str | None, base: Base) -> PeftConfig:
    """Make the PEFT config of the adapter.

    Args:
        arguments: what was asked for.
        peft_task: PEFT's task type, by which it finds the usual heads.
        base: the model; layers that its checkpoint did not have are trained whole and saved.

    Raises:
        UsageError: a value does not fit, or the file of another method does not describe one.
    """
    heads = PEFT_HEADS if peft_task == "TOKEN_CLS" else ()  # PEFT itself names them too late for LoRA to spare them
    whole = _outermost([*(arguments.modules_to_save or []), *base.new_modules, *heads]) or None
    try:
        if arguments.adapter_config:
            return _from_file(Path(arguments.adapter_config), peft_task, whole)
        fields = arguments.config_fields() | {
            "target_modules": _targets(arguments.target_modules),
            "modules_to_save": whole,
            "task_type": peft_task,
        }
        return DeepLoraConfig(**fields) if arguments.adapter == "deep_lora" else _lora_config(arguments, fields)
    except UsageError:
        raise
    except _REFUSALS as error:
        raise UsageError(f"the adapter cannot be set up: {reason_of(error)}") from error


def require_layers(arguments: AdapterArguments, *models: nn.Module) -> None:
    """Raise if an option names a layer that does not exist: PEFT ignores such a name if others match.

    Args:
        arguments: with the names.
        *models: one, or two towers, of which one may have the layer.

    Raises:
        UsageError: the text names the option and the layers that there are.
    """
    modules = [name for model in models for name, _ in model.named_modules()]
    known = [*modules, *(name for model in models for name, _ in model.named_parameters())]
    targets = _targets(arguments.target_modules)
    for option, names in (
        ("target_modules", [] if isinstance(targets, str) else targets),
        ("exclude_modules", arguments.exclude_modules or []),
        ("modules_to_save", arguments.modules_to_save or []),
    ):
        for name in names:
            if not any(own == name or own.endswith(f".{name}") for own in known):
                raise UsageError(
                    f"--{option} got {name!r}, and the model has no layer of that name; its layers are named "
                    f"{_shortened([own for own in modules if own[-1:].isalpha()])}"
                )


def _lora_config(arguments: AdapterArguments, fields: dict[str, Any]) -> LoraConfig:
    """Return LoRA's config, with the fields that it has under the same names as Deep LoRA's."""
    known = {entry.name for entry in dataclasses.fields(LoraConfig)}
    shared = {name: value for name, value in fields.items() if name in known}
    alpha = arguments.rank if arguments.lora_alpha is None else arguments.lora_alpha
    return LoraConfig(**shared, lora_alpha=alpha, lora_dropout=arguments.adapter_dropout)


def add_adapter(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Return the model with the adapter, as PEFT makes it.

    Raises:
        UsageError: the adapter does not fit the model, for instance because no layer has a name that was asked for.
    """
    try:
        return peft.get_peft_model(model, config)
    except _REFUSALS as error:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        raise UsageError(
            f"the adapter does not fit the model: {reason_of(error)}; its linear layers are called {_shortened(linear)}"
        ) from error


def adapted_parts(model: Any) -> dict[str, PeftModel]:
    """Return the PEFT models that a model consists of, by the folder each is saved in; a single one is at the top.

    A model made of others names them in `parts()`, as those of `modality` do.
    """
    if isinstance(model, PeftModel):
        return {"": model}
    parts = model.parts()
    folders = {name: "" if len(parts) == 1 else name for name in parts}
    return {folders[name]: part for name, part in parts.items() if isinstance(part, PeftModel)}


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is trained and no adapter saves: temperatures, projections, ... ."""
    saved = _saved_by_adapters(model)
    return {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in saved}


def own_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that no adapter saves: running means, fixed temperatures, ... ."""
    saved = _saved_by_adapters(model)
    return {name: buffer for name, buffer in model.named_buffers() if id(buffer) not in saved}


def _saved_by_adapters(model: nn.Module) -> set[int]:
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    adapted = [module for module in model.modules() if isinstance(module, kinds)]
    return {id(tensor) for module in adapted for tensor in (*module.parameters(), *module.buffers())}


def config_of(model: PeftModel) -> PeftConfig:
    """Return the config of the adapter that is trained."""
    configs: Any = model.peft_config
    return configs["default"]


def is_deep_lora(model: nn.Module) -> bool:
    """Return whether the adapters are exported by this project."""
    return any(isinstance(config_of(part), DeepLoraConfig) for part in adapted_parts(model).values())


def has_subspaces(model: nn.Module) -> bool:
    """Return whether there are adapters whose subspaces a gradient can set; the narrow and wide variants have none."""
    configs = [config_of(part) for part in adapted_parts(model).values()]
    return any(isinstance(config, DeepLoraConfig) and config.variant == "compressed" for config in configs)


def read_fields(path: Path) -> dict[str, Any]:
    """Read the fields of a file for `--adapter_config`.

    Raises:
        UsageError: it cannot be read, or names no method of PEFT.
    """
    try:
        fields = read_mapping(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read --adapter_config {path}: {error}") from error
    known = sorted(kind.value for kind in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING)
    if not isinstance(fields, dict) or str(fields.get("peft_type", "")).upper() not in known:
        raise UsageError(f"--adapter_config {path} must name a `peft_type`, one of {', '.join(known)}")
    return dict(fields)


def _from_file(path: Path, peft_task: str | None, whole: list[str] | None) -> PeftConfig:
    fields = read_fields(path)
    config_class = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(str(fields.pop("peft_type")).upper())]
    fields.setdefault("task_type", peft_task)
    fields["inference_mode"] = False  # saved configurations have it, and with it nothing is trained
    if whole and "modules_to_save" in getattr(config_class, "__dataclass_fields__", {}):
        given = fields.get("modules_to_save") or []
        fields["modules_to_save"] = _outermost([*([given] if isinstance(given, str) else given), *whole])
    return config_class(**fields)


def _targets(names: list[str]) -> list[str] | str:
    """Return a string for a regular expression, and a list for names, as PEFT reads them."""
    special = len(names) == 1 and (names[0] == "all-linear" or not names[0].replace(".", "_").isidentifier())
    return names[0] if special else names


def _outermost(names: list[str]) -> list[str]:
    """Drop names that lie inside another one of the list: PEFT saves a module with all that is in it."""
    return sorted({name for name in names if not any(name.startswith(other + ".") for other in names)})


def _shortened(names: list[str], most: int = 12) -> str:
    tails = sorted({name.rpartition(".")[2] for name in names})
    return ", ".join(tails[:most]) + (", ..." if len(tails) > most else "")
