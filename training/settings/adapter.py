"""The options of the adapter. Those of Deep LoRA are fields of `DeepLoraConfig`, with their help and defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from deep_lora import DeepLoraConfig
from training.errors import UsageError
from training.settings.parsing import option, refuse_commas
from training.settings.ranges import refuse_out_of_range

# Field of DeepLoraConfig -> option. A new option is one line here.
OPTIONS = {
    "r": "rank",
    "target_modules": "target_modules",
    "exclude_modules": "exclude_modules",
    "modules_to_save": "modules_to_save",
    "deep_lora_dropout": "adapter_dropout",
    "depth": "depth",
    "freeze_subspaces": "freeze_subspaces",
}
# Where the command does something else than the field says.
HELPS = {
    "target_modules": "Names of the layers to adapt, one regular expression, or all-linear.",
    "exclude_modules": "Names of layers to leave out.",
    "modules_to_save": "Layers to train and save whole; new heads are found and added.",
}


def _config_options() -> list[tuple[str, Any, Any]]:
    """Return name, type and field of each option in `OPTIONS`, for `dataclasses.make_dataclass`."""
    kinds, found = get_type_hints(DeepLoraConfig), {entry.name: entry for entry in dataclasses.fields(DeepLoraConfig)}
    options = []
    for name, called in OPTIONS.items():
        kind, default, metadata = kinds[name], found[name].default, dict(found[name].metadata)
        metadata["help"] = HELPS.get(called, metadata["help"])
        chosen: Any = {"default": default}
        if list[str] in get_args(kind):
            # A command line has one type for an option; a single word in a list can be a regular expression.
            kind = list[str] | None
            if isinstance(default, str):
                chosen = {"default_factory": [default].copy}
        options.append((called, kind, field(**chosen, metadata=metadata)))
    return options


@dataclass
class _Method:
    adapter: str = option("deep_lora", "deep_lora or lora; any other PEFT method is described by --adapter_config.")
    adapter_config: str | None = option(
        None,
        "JSON or YAML file with the fields of a PEFT config, peft_type among them. It replaces the options of the "
        "config, except --modules_to_save, whose layers are added.",
    )


_Fields: Any = dataclasses.make_dataclass("_Fields", _config_options(), bases=(_Method,))
_OF_EVERY_METHOD = ("rank", "target_modules", "exclude_modules", "modules_to_save")
_Shared: Any = dataclasses.make_dataclass("_Shared", [one for one in _config_options() if one[0] in _OF_EVERY_METHOD])


@dataclass
class SharedArguments(_Shared):
    """What Deep LoRA and LoRA have in common."""

    _argument_group_name = "adapters"


@dataclass
class AdapterArguments(_Fields):
    """Which adapter is trained."""

    _argument_group_name = "adapter"

    lora_alpha: int | None = option(
        None, "Alpha of --adapter lora, whose scale is lora_alpha / rank; the rank if unset. deep_lora has none."
    )
    init_batches: int = option(
        4, "Training batches (on each process) whose gradient sets the subspaces of deep_lora; with 0 they are random."
    )
    path_length: float | None = option(
        None,
        "How far the step rule lets a weight move in the whole run, as a fraction of its norm. The rule sets the "
        "steps of the adapter, whatever the learning rate. If unset, deep_lora uses 0.12 to learn classes or tokens "
        "and 0.24 for everything else, and lora has no rule. 0 turns the rule off.",
    )

    def __post_init__(self) -> None:
        if self.adapter not in ("deep_lora", "lora"):
            raise UsageError(
                f"--adapter got {self.adapter!r}; choose deep_lora or lora, or describe any other PEFT method in a "
                "file for --adapter_config"
            )
        for name in ("target_modules", "exclude_modules", "modules_to_save"):
            refuse_commas(name, getattr(self, name))
        refuse_out_of_range(self)
        if self.rank < 1:
            raise UsageError(f"--rank got {self.rank}; it must be at least 1")
        if self.init_batches < 0:
            raise UsageError(f"--init_batches got {self.init_batches}; it must not be negative")
        if self.path_length is not None and not 0 <= self.path_length < float("inf"):
            raise UsageError(
                f"--path_length got {self.path_length}; it must be a share of the weights' norms such as 0.12, or 0 "
                "to train by the learning rate"
            )

    def config_fields(self) -> dict[str, Any]:
        """Return the values of `OPTIONS` by their names in `DeepLoraConfig`."""
        return {name: getattr(self, called) for name, called in OPTIONS.items()}
