"""The options of the adapter. Those of Deep LoRA are fields of `DeepLoraConfig`, with their help and defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from deep_lora import DeepLoraConfig
from training.errors import UsageError
from training.settings.parsing import option

# Field of DeepLoraConfig -> option. A new option is one line here.
OPTIONS = {
    "r": "rank",
    "target_modules": "target_modules",
    "exclude_modules": "exclude_modules",
    "modules_to_save": "modules_to_save",
    "deep_lora_dropout": "adapter_dropout",
    "depth": "depth",
    "freeze_subspaces": "freeze_subspaces",
    "max_update_norm": "max_update_norm",
}
# Where the command does something else than the field says.
HELPS = {
    "target_modules": "Names of the layers to adapt, one regular expression, or all-linear.",
    "exclude_modules": "Names of layers that are left alone.",
    "modules_to_save": "Layers that are trained and saved whole; new heads are found and added.",
}
# Option -> keyword of `deep_lora.create_optimizer`; where an option is unset, the keyword's default holds.
KNOBS = {"gamma": "gamma", "max_relative_step": "max_relative_step", "other_learning_rate": "other_lr"}


class Knob(NamedTuple):
    """An option that was passed, and the keyword of `deep_lora.create_optimizer` that it sets."""

    option: str
    keyword: str
    value: Any


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
    adapter: str = option("deep_lora", "deep_lora or lora; any other PEFT method comes with --adapter_config.")
    adapter_config: str | None = option(
        None,
        "JSON or YAML file with the fields of a PEFT config, peft_type among them. It replaces the options of the "
        "config, except --modules_to_save, whose layers are added.",
    )


_Fields: Any = dataclasses.make_dataclass("_Fields", _config_options(), bases=(_Method,))


@dataclass
class AdapterArguments(_Fields):
    """Which adapter is trained."""

    _argument_group_name = "adapter"

    lora_alpha: int | None = option(
        None, "The scale of --adapter lora is lora_alpha / rank; the rank if unset. deep_lora has no alpha."
    )
    gamma: float | None = option(
        None, "Learning rate of the outer factors of deep_lora relative to the inner ones; 1 if unset."
    )
    max_relative_step: float | None = option(
        None,
        "Limit for each step of a factor of deep_lora, relative to the norm of the factor, such as 0.015. The adapter "
        "then trains at any learning rate. Needs --max_update_norm, and --other_learning_rate for a new head.",
    )
    other_learning_rate: float | None = option(
        None, "Learning rate of everything but deep_lora, such as a new head; --learning_rate if unset."
    )
    init_batches: int = option(
        4, "Training batches (on each process) whose gradient sets the subspaces of deep_lora; 0 leaves them random."
    )
    init_sides: Literal["both", "right"] = option(
        "right",
        "Singular vectors of the gradient that span the subspaces of deep_lora: right (the default), or both (half of "
        "them left and half right, as in the paper).",
    )

    def __post_init__(self) -> None:
        if self.adapter not in ("deep_lora", "lora"):
            raise UsageError(
                f"--adapter got {self.adapter!r}; choose deep_lora or lora, or describe any other PEFT method in a "
                "file for --adapter_config"
            )
        if self.rank < 1:
            raise UsageError(f"--rank got {self.rank}; it must be at least 1")
        if self.init_batches < 0:
            raise UsageError(f"--init_batches got {self.init_batches}; it must not be negative")
        for name in KNOBS:
            if (share := getattr(self, name)) is not None and not share > 0:
                hint = "; --freeze_subspaces keeps the outer factors fixed" if name == "gamma" else ""
                raise UsageError(f"--{name} got {share}; it must be positive, or left out{hint}")
        if self.freeze_subspaces and self.gamma is not None:
            raise UsageError("--gamma is a rate of what --freeze_subspaces keeps fixed; leave one of them out")
        if self.adapter == "deep_lora" and not self.adapter_config:
            self.check_halves("--rank", self.rank)

    def config_fields(self) -> dict[str, Any]:
        """Return the values of `OPTIONS` by their names in `DeepLoraConfig`."""
        return {name: getattr(self, called) for name, called in OPTIONS.items()}

    def changed_options(self) -> set[str]:
        """Return the names of those in `OPTIONS` that do not have their defaults."""
        usual = type(self)()
        return {called for called in OPTIONS.values() if getattr(self, called) != getattr(usual, called)}

    def knobs(self) -> list[Knob]:
        """Return what was passed for the optimizer."""
        found = [Knob(called, keyword, getattr(self, called)) for called, keyword in KNOBS.items()]
        return [knob for knob in found if knob.value is not None]

    def check_halves(self, name: str, rank: int) -> None:
        """Check that a rank of deep_lora can be halved where the subspaces come from both sides of the gradient.

        Raises:
            UsageError: the rank is odd; `name` says where it came from.
        """
        if self.init_batches and self.init_sides == "both" and rank % 2:
            raise UsageError(
                f"{name} got {rank}; with --init_sides both deep_lora needs an even rank, half of it for each side of "
                "the gradient: pass an even rank, --init_sides right or --init_batches 0"
            )
