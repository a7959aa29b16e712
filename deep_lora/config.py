"""`DeepLoraConfig`: what a user chooses, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peft import LoraConfig, TaskType
from peft.config import PeftConfig

from deep_lora.files import check_adapter_folder
from deep_lora.help_texts import help_texts
from deep_lora.lora_fields import WithoutLoraFields, fields_from_lora
from deep_lora.registration import claim_peft_type
from deep_lora.targets import ALL_LINEAR, check_lists, check_targets
from deep_lora.trainable import hub_options, trainable_subfolder

PEFT_TYPE = claim_peft_type("deep_lora")
PAPER_INIT_SCALE, SUBTRACTED_INIT_SCALE = 1e-3, 0.3
VARIANTS = ("compressed", "narrow", "wide")
FORMAT_VERSION = 4  # of the saved parameters; raised when their meaning changes
DIFFERENCES_FORMAT = (
    3  # from here on cores are stored as differences from their start (`deep_lora.weights.start.stores_differences`)
)


@dataclass
class DeepLoraConfig(WithoutLoraFields, PeftConfig):
    """Configuration of Deep LoRA: `dW = U W_L ... W_1 V^T`, a compressed deep factorization. There is no alpha.

    Each adapted weight (out x in) holds `deep_lora_U` (out, r), `deep_lora_core` (n, r, r) and `deep_lora_V` (in, r):
    `dW = kappa^n U W[n-1] ... W[0] V^T`. If `subtract_start`, its value at the start is taken off, and `deep_lora_core`
    is what the W differ by from their start; otherwise it is the W themselves.

    Source: Yaras et al., ICML 2024, Deep LoRA; `DeepLoraConfig.paper()` has the paper's own settings. docs/few_shot.md
    says what led to other defaults.

    Args:
        task_type: PEFT's name of the task, such as 'SEQ_CLS', where you want PEFT's class for it. Heads are trained and
            saved without it too.
        r: Rank of the update: a budget, not a knob to tune. Even, if the subspaces come from both sides of the
            gradient.
        target_modules: Modules to adapt: names, a regex, or 'all-linear', every linear layer but the output embeddings
            and what is saved whole. None is 'all-linear' too; [] adapts only `target_parameters`.
        exclude_modules: Names or a regex of modules to leave out although they are targeted.
        variant: 'compressed', the method: `depth` cores (r x r) between orthonormal U and V. For research: 'narrow',
            `depth` factors of width r, and 'wide', of width max(out, in).
        depth: Number of factors, L in the paper. 2 is closest to LoRA; more prefer lower ranks and start more slowly.
        init_scale: Scale eps of every factor at the start. 'auto' is 0.3 where the start is subtracted, and the paper's
            1e-3 elsewhere. Smaller ones start more slowly and end at lower ranks.
        core_scale: Factor kappa of the stored cores. 'auto' falls with r, so that one rate suits all ranks
            (`deep_lora.functional.auto_core_scale`), and is 1 for 'narrow' and 'wide'; 1.0 is the paper's.
        freeze_subspaces: Train only the cores, which saves memory; U and V keep their first values.
        subtract_start: Subtract the start of a 'compressed' update, so that a fresh adapter changes nothing; False is
            the paper's.
        deep_lora_dropout: Dropout on the input of the adapter, in [0, 1).
        fan_in_fan_out: Whether the base weights are stored (in, out); set by itself for GPT-2's Conv1D.
        bias: Biases to train: 'none', 'all', or 'deep_lora_only', those of adapted layers.
        modules_to_save: Modules to train and save whole. The head of a transformers model for classification or
            question answering is added; [], without a `task_type`, leaves it frozen.
        init_weights: False starts from a random update that is not zero, for tests.
        layers_to_transform: Indices of the layers to adapt, all by default; not with a regex in `target_modules`.
        layers_pattern: Name of the list of layers, if it is unusual; needs `layers_to_transform`.
        rank_pattern: Ranks of single modules by name or regex; all others have `r`.
        depth_pattern: Depths of single modules by name or regex; all others have `depth`.
        trainable_token_indices: Rows of the embedding to train beside the adapter, such as those of new tokens, or a
            dict of module name to rows.
        target_parameters: Names of bare nn.Parameters to adapt, such as the experts of a mixture.
        ensure_weight_tying: Share one adapter, or one weight that is saved whole, between the input embedding and what
            is tied to it.
        deep_lora_version: Format of the saved adapter; leave it.

    Raises:
        ValueError: for a value outside of its range; the message names the field, what came and what is needed.
        TypeError: for a field that only `LoraConfig` has, with what to do about it, or a string in place of a list.

    >>> config = DeepLoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    >>> config.depth, config.init_scale
    (3, 0.3)
    """

    _help = help_texts(__doc__)

    r: int = field(default=8, metadata=_help["r"])
    target_modules: list[str] | str | None = field(default=ALL_LINEAR, metadata=_help["target_modules"])
    exclude_modules: list[str] | str | None = field(default=None, metadata=_help["exclude_modules"])
    variant: Literal["compressed", "narrow", "wide"] = field(default="compressed", metadata=_help["variant"])
    depth: int = field(default=3, metadata=_help["depth"])
    init_scale: float = field(
        default="auto",  # type: ignore[assignment]  # a number once the configuration is made
        metadata=_help["init_scale"],
    )
    core_scale: float | str = field(default="auto", metadata=_help["core_scale"])
    freeze_subspaces: bool = field(default=False, metadata=_help["freeze_subspaces"])
    subtract_start: bool = field(default=True, metadata=_help["subtract_start"])
    deep_lora_dropout: float = field(default=0.0, metadata=_help["deep_lora_dropout"])
    fan_in_fan_out: bool = field(default=False, metadata=_help["fan_in_fan_out"])
    bias: str = field(default="none", metadata=_help["bias"])
    modules_to_save: list[str] | None = field(default=None, metadata=_help["modules_to_save"])
    init_weights: bool = field(default=True, metadata=_help["init_weights"])
    layers_to_transform: list[int] | int | None = field(default=None, metadata=_help["layers_to_transform"])
    layers_pattern: list[str] | str | None = field(default=None, metadata=_help["layers_pattern"])
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata=_help["rank_pattern"])
    depth_pattern: dict[str, int] = field(default_factory=dict, metadata=_help["depth_pattern"])
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None, metadata=_help["trainable_token_indices"]
    )
    target_parameters: list[str] | None = field(default=None, metadata=_help["target_parameters"])
    ensure_weight_tying: bool = field(default=False, metadata=_help["ensure_weight_tying"])
    task_type: str | TaskType | None = field(default=None, metadata=_help["task_type"])
    deep_lora_version: int = field(default=FORMAT_VERSION, metadata=_help["deep_lora_version"])
    del _help

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        self.rank_pattern, self.depth_pattern = self.rank_pattern or {}, self.depth_pattern or {}
        if self.target_modules is None:
            self.target_modules = ALL_LINEAR
        for name in ("target_modules", "exclude_modules"):
            if isinstance(names := getattr(self, name), list):
                setattr(self, name, set(names))
        self._check_shape()
        self._check_rates()
        self._check_targets()

    @classmethod
    def paper(cls, **settings: Any) -> DeepLoraConfig:
        """Make the configuration of the paper's own experiments; `settings` are further fields, or replace some.

        The rest of the paper's settings are arguments elsewhere: `create_optimizer(model, lr=1e-2, gamma=1e-2)` and
        `initialize_subspaces_(model, closure, sides="both")`.

        Source: Yaras et al., ICML 2024, Deep LoRA, experiments.

        >>> config = DeepLoraConfig.paper(target_modules=["q_proj", "v_proj"])
        >>> config.init_scale, config.core_scale, config.subtract_start
        (0.001, 1.0, False)
        """
        own: dict[str, Any] = {
            "variant": "compressed", "r": 8, "depth": 3, "init_scale": PAPER_INIT_SCALE, "core_scale": 1.0,
            "subtract_start": False,
        }  # fmt: skip
        return cls(**(own | settings))

    @classmethod
    def from_lora(cls, lora_config: LoraConfig) -> DeepLoraConfig:
        """Translate the configuration of a LoRA adapter into that of a Deep LoRA adapter.

        Fields of the same name are kept, `lora_dropout` and `bias` are renamed. Alpha has no counterpart:
        `lora_alpha`, `alpha_pattern` and `use_rslora` are dropped. Targets that LoRA leaves to the architecture
        (`target_modules=None`) are all linear layers.

        Raises:
            TypeError: if it is not a `LoraConfig`, or the config of another method.
            ValueError: if a field that Deep LoRA lacks is set, such as `use_dora`; the message names it.

        >>> lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
        >>> config = DeepLoraConfig.from_lora(lora)
        >>> config.r, config.deep_lora_dropout, sorted(config.target_modules)
        (4, 0.1, ['q_proj', 'v_proj'])
        """
        return cls(**fields_from_lora(lora_config, set(cls.__dataclass_fields__)))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> DeepLoraConfig:
        """Load a saved configuration, as every `PeftConfig` does; a local adapter file beside it is checked first.

        If a plain LoRA is at the root of the folder or repository, the trainable adapter below it is meant.

        Raises:
            ValueError: if the adapter file is corrupt, inconsistent or bounded (see `deep_lora.files`).
        """
        subfolder = subfolder or trainable_subfolder(pretrained_model_name_or_path, **hub_options(kwargs))
        config = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        check_adapter_folder(Path(pretrained_model_name_or_path, subfolder or ""))
        return config

    def _check_shape(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"`variant` must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        _check_positive_integers("r", [self.r])
        _check_positive_integers("rank_pattern", self.rank_pattern.values())
        least = 1 if self.variant == "compressed" else 2
        for name, depths in (("depth", [self.depth]), ("depth_pattern", self.depth_pattern.values())):
            _check_positive_integers(name, depths)
            if any(depth < least for depth in depths):
                raise ValueError(
                    f"`{name}` must be at least {least} for variant {self.variant!r}, got {list(depths)}; "
                    "the narrow and wide variants count U and V among their factors"
                )

    def _check_rates(self) -> None:
        if self.init_scale == "auto":
            subtracted = self.variant == "compressed" and self.subtract_start
            self.init_scale = SUBTRACTED_INIT_SCALE if subtracted else PAPER_INIT_SCALE
        _check_number("init_scale", self.init_scale, low=0.0, low_open=True)
        if self.core_scale != "auto":
            if isinstance(self.core_scale, str):
                raise ValueError(f"`core_scale` must be a positive number or 'auto', got {self.core_scale!r}")
            _check_number("core_scale", self.core_scale, low=0.0, low_open=True)
        if not isinstance(self.freeze_subspaces, bool):
            raise ValueError(f"`freeze_subspaces` must be True or False, got {self.freeze_subspaces!r}")
        if self.variant != "compressed" and self.freeze_subspaces:
            raise ValueError(
                f"`freeze_subspaces` needs variant 'compressed', got {self.variant!r}, which trains U and V as factors"
            )
        _check_number("deep_lora_dropout", self.deep_lora_dropout, low=0.0, high=1.0)
        if self.bias not in ("none", "all", "deep_lora_only"):
            raise ValueError(f"`bias` must be 'none', 'all' or 'deep_lora_only', got {self.bias!r}")

    def _check_targets(self) -> None:
        check_lists(modules_to_save=self.modules_to_save, target_parameters=self.target_parameters)
        check_targets(self.target_modules or (), self.layers_to_transform, self.layers_pattern)
        if self.deep_lora_version > FORMAT_VERSION:
            raise ValueError(
                f"the adapter was saved in format {self.deep_lora_version}, this version of deep_lora reads formats up "
                f"to {FORMAT_VERSION}; upgrade it with `pip install -U deep-lora`"
            )

    def num_cores(self, depth: int) -> int:
        """Count the r x r cores, n: all factors of a compressed chain, the inner ones of the others."""
        return depth if self.variant == "compressed" else depth - 2


def _check_positive_integers(name: str, values: Iterable[int]) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ValueError(f"`{name}` should be a positive integer value but the value passed is {value}")


def _check_number(name: str, value: float, *, low: float, high: float = math.inf, low_open: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    inside = is_number and math.isfinite(value) and low <= value < high and not (low_open and value == low)
    if not inside:
        bounds = f"{'(' if low_open else '['}{low:g}, {high:g})"
        raise ValueError(f"`{name}` must be a number in {bounds}, got {value!r}")
