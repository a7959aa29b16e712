"""Texts, and prompts with what follows them, as tokens of a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from training.errors import UsageError
from training.job import IGNORED, Job
from training.models.building import build_adapted
from training.tasks.base import CUT, adapter_task

_PROBED = 8  # tokens
_TOLERATED = 1e-3  # of the change of the last token's logits


def encode_continuations(
    texts: Sequence[str], targets: Sequence[str] | None, tokenizer: Any, max_length: int
) -> dict[str, list[Any]]:
    """Encode texts, or prompts with targets, of which only the targets have labels.

    A target follows its prompt after a space, unless one of them brings white space. A prompt that is too long loses
    its beginning, a target or a text its end. The token of the end is added where it is missing.

    Args:
        texts: whole texts, or prompts.
        targets: what follows them.
        tokenizer: of the model.
        max_length: tokens of prompt and target together.

    Returns:
        `input_ids`, `attention_mask`, `labels` and how many tokens of each row are cut off. The first token has no
        label: nothing predicts it, and Trainer, which counts labels, would divide the loss by one too many.
    """
    rows = []
    for row, text in enumerate(texts):
        whole = text if targets is None else text + _between(text, targets[row]) + targets[row]
        ids = [*_encoded(whole, tokenizer), *_end_of(whole, tokenizer)]
        silent = 0 if targets is None else _shared_length(_encoded(text, tokenizer), ids)
        first = int(bool(ids) and ids[0] in tokenizer.all_special_ids)
        rows.append(_fitted(ids, silent, max_length, first))
    labels = [[IGNORED] * max(silent, 1) + ids[max(silent, 1) :] for ids, silent, _ in rows]
    return {
        "input_ids": [ids for ids, _, _ in rows],
        "attention_mask": [[1] * len(ids) for ids, _, _ in rows],
        "labels": labels,
        CUT: [lost for _, _, lost in rows],
    }


def encode_prompts(texts: Sequence[str], tokenizer: Any, max_length: int) -> tuple[dict[str, list[Any]], list[int]]:
    """Encode prompts as `encode_continuations` does, and how many tokens of each are cut off at the front."""
    rows = []
    for text in texts:
        ids = _encoded(text, tokenizer)
        while len(ids) > 1 and ids[-1] in tokenizer.all_special_ids and not text.endswith(tokenizer.decode(ids[-1:])):
            ids = ids[:-1]  # the end that the tokenizer adds
        first = int(bool(ids) and ids[0] in tokenizer.all_special_ids)
        lost = max(0, len(ids) - max_length)
        rows.append((ids if not lost else [*ids[:first], *ids[first + lost :]], lost))
    encoded = {"input_ids": [row for row, _ in rows], "attention_mask": [[1] * len(row) for row, _ in rows]}
    return encoded, [lost for _, lost in rows]


def _between(prompt: str, target: str) -> str:
    return "" if not prompt or prompt[-1:].isspace() or target[:1].isspace() else " "


def _encoded(text: str, tokenizer: Any) -> list[int]:
    """Encode a text; a rendered chat that begins with the token of the beginning does not get another one."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    begin = tokenizer.bos_token_id
    return ids[1:] if begin is not None and ids[:2] == [begin, begin] else ids


def _end_of(text: str, tokenizer: Any) -> list[int]:
    """Return the token of the end, if there is one and the text does not bring it along."""
    end = tokenizer.eos_token
    ids = [] if end is None else [tokenizer.eos_token_id]
    brought = end is not None and (text.rstrip().endswith(end) or _encoded(text, tokenizer)[-1:] == ids)
    return [] if brought else ids


def _shared_length(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Return how many tokens both begin with: a tokenizer may end a prompt differently if nothing follows it."""
    return next((place for place, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]),
                min(len(prompt), len(whole)))  # fmt: skip


def _fitted(ids: list[int], silent: int, most: int, first: int) -> tuple[list[int], int, int]:
    """Return the tokens that fit, how many of them are the prompt, and how many are cut off.

    The prompt gives way from its front, but to no less than half of the room; as many as `first` stay in any case.
    """
    surplus = len(ids) - most
    if surplus <= 0:
        return ids, silent, 0
    kept = max(min(silent, most // 2), silent - surplus)
    first = min(first, kept)
    prompt = [*ids[:first], *ids[silent - kept + first : silent]]
    return [*prompt, *ids[silent:]][:most], kept, surplus


@torch.no_grad()
def require_causal(model: nn.Module, name: str) -> None:
    """Raise if the logits of a token depend on the tokens after it: such a model sees what it should predict.

    Raises:
        UsageError: they do, as those of BERT.
    """
    if is_deepspeed_zero3_enabled():  # the weights are not here
        return
    device = next(model.parameters()).device
    tokens = torch.arange(_PROBED, device=device)[None] + 2
    changed = tokens.clone()
    changed[0, -1] = 1
    training = model.training
    model.eval()
    try:
        first, second = (
            model(input_ids=one, attention_mask=torch.ones_like(one)).logits[0] for one in (tokens, changed)
        )
    finally:
        model.train(training)
    difference = (first - second).float().abs().amax(-1)
    if difference[:-1].max() > _TOLERATED * difference[-1]:
        raise UsageError(
            f"{name} is a {type(model).__name__}, which sees the tokens after the one that it predicts; pass a causal "
            "model such as GPT-2 or Llama (for classes of texts: --task classification)"
        )


def _build_causal(job: Job) -> nn.Module:
    model = build_adapted(job)
    require_causal(model.get_base_model(), str(job.model.model))
    return model


# A `Task` of a causal language model with an adapter.
causal_task = partial(
    adapter_task,
    auto_class="AutoModelForCausalLM",
    pipeline="text-generation",
    peft_task="CAUSAL_LM",
    model_settings={},
    build_model=_build_causal,
)
