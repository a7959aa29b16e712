"""Which modules a LoRA configuration names: plain names, which every loader reads, and nothing that is not adapted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft.utils.constants import EMBEDDING_LAYER_NAMES
from peft.utils.other import get_pattern_key

from deep_lora.export.unwrapping import uncompiled

PREFIX = "base_model.model."  # PEFT puts it before the name of every tensor


def plain_name(name: str) -> str:
    """Return the name of an adapted module in the base model.

    >>> plain_name("base_model.model.layers.0.base_layer.q_proj")
    'layers.0.q_proj'
    """
    return uncompiled(name.removeprefix(PREFIX)).replace(".base_layer", "")


def held_targets(targets: Any, names: Iterable[str]) -> set[str] | None:
    """Name what is adapted and nothing else: of a name that nothing has, LoRA might find something.

    A regular expression becomes the full names of what it has found, since vLLM, SGLang and others take only names.

    >>> sorted(held_targets(["q_proj", "gate_proj"], ["0.q_proj", "0.w"])), held_targets(".*_proj", ["0.q_proj"])
    (['0.w', 'q_proj'], {'0.q_proj'})
    """
    if targets is None:
        return None
    dotted = {f".{plain_name(name)}" for name in names}
    wanted = () if isinstance(targets, str) else targets
    found = {target: {name for name in dotted if name.endswith(f".{target}")} for target in wanted}
    left = dotted.difference(*found.values())
    return {target for target, own in found.items() if own} | {name[1:] for name in left}


def shortened(names: set[str], others: Iterable[str]) -> set[str]:
    """Return the last parts of full names, where no other module has the same last part.

    >>> sorted(shortened({"0.q", "1.q", "0.v", "head"}, ["0", "0.k", "1.v"]))
    ['0.v', 'head', 'q']
    """
    taken = {name.rpartition(".")[2] for name in others}
    return {name if name.rpartition(".")[2] in taken else name.rpartition(".")[2] for name in names}


def caught_besides(names: Iterable[str], others: Iterable[str]) -> set[str]:
    """Return the other modules that PEFT would adapt, too, as their names end with one of these.

    >>> caught_besides({"layer.0"}, ["tower.layer.0", "layer.1"])
    {'tower.layer.0'}
    """
    ends = tuple(f".{name}" for name in names)
    return {other for other in others if other.endswith(ends)}


def with_tied_targets(targets: set[str] | None, tied: set[str] | None) -> set[str] | None:
    """Add a tied head to the target modules: PEFT's LoRA ties it only if it is named among them.

    Raises:
        ValueError: the head is tied, and has a name that PEFT's LoRA does not know.

    >>> sorted(with_tied_targets({"wte"}, {"lm_head"}))
    ['lm_head', 'wte']
    """
    if not tied:
        return targets
    if not any(name.split(".")[-1] in EMBEDDING_LAYER_NAMES for name in tied):
        raise ValueError(
            f"PEFT's LoRA does not tie an output layer named {sorted(tied)} to the embedding, so the tied adapter "
            "cannot be exported; merge it with `merge_and_unload`, or train without `ensure_weight_tying`"
        )
    return {*(targets or ()), *tied}


def rank_patterns(ranks: dict[str, int], rank: int) -> dict[str, int]:
    """Return the modules whose rank is another, as PEFT's `rank_pattern` names them.

    PEFT takes the first pattern that fits the end of a name, and files are sorted, so a name that others end with
    stands only for itself.

    >>> rank_patterns({"layer.0": 2, "tower.layer.0": 3, "head": 4}, 4)
    {'^layer.0': 2, 'tower.layer.0': 3}
    """
    found = {}
    for name, own in ranks.items():
        key = f"^{name}" if caught_besides([name], ranks) else name
        if own != rank:
            found[key] = own
    wrong = [name for name, own in ranks.items() if found.get(get_pattern_key(sorted(found), name), rank) != own]
    if wrong:
        raise ValueError(
            f"the rank of module {wrong[0]} cannot be stored, because its name does not tell it from modules of other "
            "ranks; export with `ranks='uniform'`"
        )
    return dict(sorted(found.items()))
