"""A text of another kind than the training data, on which the drift of a language model is measured."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Trainer, TrainerCallback

from deep_lora import DriftCallback
from training.errors import UsageError
from training.reading.kinds import text
from training.reading.sources import read_source
from training.reading.tables import Wanted
from training.settings.data import LENGTH, TextDataArguments
from training.trainer.optimizer import sharding_frameworks

BLOCKS = 32  # of the text, at most
PANELS = (("general_perplexity", "general_perplexity_of_base"), ("general_kl",), ("update_share",))


def watchers(data: TextDataArguments) -> Any:
    """Return what makes the callback of `--general_text`, of Trainer and tokenizer."""
    return partial(_watch, data=data)


def _watch(trainer: Trainer, tokenizer: Any, *, data: TextDataArguments) -> list[TrainerCallback]:
    if data.general_text is None:
        return []
    for name in sharding_frameworks():
        raise UsageError(
            f"--general_text compares the model with its base, for which each process needs whole weights; {name} "
            "shards them. Use DDP (ddp.yaml), or leave it out"
        )
    return [DriftCallback(trainer, general_blocks(data, tokenizer))]


def general_blocks(data: TextDataArguments, tokenizer: Any) -> Int[Tensor, "blocks length"]:
    """Read the text and cut it into blocks of tokens: at most 32 of 128 each, from its start.

    Raises:
        UsageError: it cannot be read, or is shorter than two tokens.
    """
    splits = read_source(str(data.general_text), data)
    rows = next(iter(splits.values()))([Wanted("text", text, "another name in the file")])
    ids = tokenizer("\n".join(rows["text"]), verbose=False, add_special_tokens=False)["input_ids"]
    length = min(LENGTH, data.length, len(ids))
    if length < 2:
        raise UsageError(f"--general_text {data.general_text} has {len(ids)} tokens; at least 2 are needed")
    blocks = min(BLOCKS, len(ids) // length)
    return torch.tensor(ids[: blocks * length]).reshape(blocks, length)
