"""The usual names of experts and routers, where a model of transformers keeps their weights as bare parameters.

PEFT rewrites such names (`w1` of Mixtral, `up_proj` of Qwen's mixtures and their like) only for LoRA.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn

from deep_lora.config import DeepLoraConfig

_REWRITTEN = ("target_modules", "target_parameters", "rank_pattern")
_READ = ("r", "exclude_modules", "layers_to_transform", "layers_pattern")


def name_experts_(config: DeepLoraConfig, model: nn.Module) -> list[str]:
    """Write the targets that are experts or routers as parameters, so that the same words mean the same as in LoRA.

    Weights that were fused (`gate_proj` and `up_proj`) get the sum of their ranks. Nothing changes for other models.

    Args:
        config: of the adapter, changed in place.
        model: the base.

    Returns:
        The patterns that were added to the ranks.

    Raises:
        ValueError: from PEFT, if only a part of what was fused is targeted.

    >>> config = DeepLoraConfig(target_modules=["up_proj"])
    >>> name_experts_(config, nn.Linear(2, 2))
    []
    >>> config.target_modules, config.target_parameters
    ({'up_proj'}, None)
    """
    words = LoraConfig()
    for name in (*_REWRITTEN, *_READ):
        setattr(words, name, copy.copy(getattr(config, name)))
    convert_peft_config_for_transformers(words, model, None)
    if set(words.target_parameters or ()) == set(config.target_parameters or ()):
        return []
    added = sorted(set(words.rank_pattern or ()) - set(config.rank_pattern))
    for name in _REWRITTEN:
        setattr(config, name, getattr(words, name))
    config.target_parameters = sorted(words.target_parameters or ())
    return added


@contextmanager
def rank_patterns_accepted(patterns: list[str]) -> Iterator[None]:
    """Silence PEFT's warning that these patterns were ignored: it looks for modules only, these are of parameters."""
    with warnings.catch_warnings():
        if patterns:
            text = f"The following rank_pattern keys did not match any targeted module and were ignored: {patterns}."
            warnings.filterwarnings("ignore", message=re.escape(text))
        yield
