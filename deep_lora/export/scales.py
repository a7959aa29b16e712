"""Ranks and scales of a plain LoRA, as its config and its tensors give them, and as programs without patterns do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from peft import LoraConfig
from peft.utils import CONFIG_NAME
from peft.utils.other import get_pattern_key

from deep_lora.files import AdapterFileError

Ranks = Mapping[str, int]


def lora_scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """Return by what a LoRA adapter multiplies `B A` of a module.

    Raises:
        AdapterFileError: the config has no number for it.
    """
    patterns = config.get("alpha_pattern") or {}
    try:
        alpha = patterns.get(get_pattern_key(patterns.keys(), name), config.get("lora_alpha", LoraConfig.lora_alpha))
        return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
    except Exception as error:  # a foreign config may hold anything
        raise AdapterFileError(
            f"lora_alpha or alpha_pattern in the config is not a number for module {name[:80]!r}"
        ) from error


def contradictions(config: Mapping[str, Any], ranks: Ranks, right_ranks: Ranks) -> list[str]:
    """Say where config and tensors of a LoRA contradict each other; PEFT would fail, or leave the update out.

    Args:
        config: its fields.
        ranks, right_ranks: the ranks of lora_A and of lora_B, by module.

    >>> contradictions({"r": 8}, {"q_proj": 8}, {})
    ['the update of q_proj is not complete: lora_A or lora_B is missing; save the adapter again']
    """
    if lone := sorted(ranks.keys() ^ right_ranks.keys()):
        return [f"the update of {lone[0]} is not complete: lora_A or lora_B is missing; save the adapter again"]
    if config.get("target_parameters"):  # those of experts hold the ranks of all of them
        return []
    pattern, usual = config.get("rank_pattern"), config.get("r", LoraConfig.r)
    pattern = pattern if isinstance(pattern, dict) else {}
    given = {name: pattern.get(get_pattern_key(list(pattern), name), usual) for name in ranks}
    wrong = [name for name, rank in ranks.items() if not rank == right_ranks[name] == given[name]]
    return [
        f"the config gives {name} the rank {given[name]!r}, and its tensors have {ranks[name]}; correct {CONFIG_NAME}, "
        "or save the adapter again"
        for name in sorted(wrong)[:1]
    ]


def other_scale(config: Mapping[str, Any], ranks: Ranks, *, rslora: bool = True) -> list[str]:
    """Say which update is scaled wrongly by a program that scales all of them by lora_alpha and r of the config.

    Args:
        config: fields of a LoRA without contradictions.
        ranks: of its updates, by module.
        rslora: whether the program knows `use_rslora`.

    >>> other_scale({"r": 8, "lora_alpha": 8, "alpha_pattern": {"q_proj": 16}}, {"q_proj": 8, "v_proj": 8})
    ['it scales all updates by 1 (lora_alpha and r), and that of q_proj needs 2; export again with one scale']
    """
    if config.get("target_parameters") or not ranks:
        return []
    plain = {**config, "alpha_pattern": {}, "use_rslora": rslora and config.get("use_rslora")}
    usual = lora_scale(plain, "", config.get("r", LoraConfig.r))
    own = {name: lora_scale(config, name, rank) for name, rank in ranks.items()}
    wrong = [name for name, scale in own.items() if not math.isclose(scale, usual, rel_tol=1e-6)]
    return [
        f"it scales all updates by {usual:g} (lora_alpha and r), and that of {name} needs {own[name]:g}; export again "
        "with one scale"
        for name in sorted(wrong)[:1]
    ]
