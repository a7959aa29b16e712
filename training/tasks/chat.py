"""Conversations: what the assistant says is learned (chat), or which of two answers is better (dpo).

The data are recognized by their columns. Both train with TRL, which is imported when one of them is asked for.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from training.data import Splits, training_columns
from training.errors import UsageError
from training.job import IGNORED, Task
from training.reading.conversations import (
    Turns,
    answer,
    answer_or_conversation,
    conversation,
    optional_text,
    prompt,
    tools,
)
from training.reading.kinds import Kind, Placed, shown, text
from training.reading.tables import Wanted
from training.settings.data import TextDataArguments
from training.tasks.base import CUT, replace_columns
from training.tasks.continuation import causal_task
from training.trainer.general_text import PANELS, watchers
from training.trainer.shown import check_shown


class Format(NamedTuple):
    """A way to write conversations: the columns that it needs, and those that it may have."""

    needed: dict[str, Kind]
    optional: dict[str, Kind]


FORMATS = {
    "messages": Format({"messages": conversation}, {"tools": tools, "system": optional_text}),
    "ShareGPT": Format({"conversations": conversation}, {"tools": tools, "system": optional_text}),
    "Alpaca": Format({"instruction": text, "output": text}, {"input": optional_text, "system": optional_text}),
    "prompt and completion": Format({"prompt": prompt, "completion": answer}, {"tools": tools}),
}
_PREFERENCES = Format({"chosen": answer_or_conversation, "rejected": answer_or_conversation}, {"prompt": prompt})
_LISTED = "messages; conversations; instruction and output (and input); or prompt and completion"


def chat_columns(data: TextDataArguments) -> list[Wanted]:
    """Recognize the format of the conversations by the columns of the training data.

    Raises:
        UsageError: no format, or several, are among the columns.
    """
    names = training_columns(data)
    if data.text_column != "text":
        return _wanted(Format({data.text_column: conversation}, FORMATS["ShareGPT"].optional), names, "--text_column")
    found = [name for name, one in FORMATS.items() if set(one.needed) <= set(names)]
    if not found:
        raise UsageError(
            f"the columns {names} hold no conversations; needed are {_LISTED}. If another column has lists of "
            "turns, name it with --text_column"
        )
    if len(found) > 1:
        raise UsageError(
            f"the columns {names} hold conversations in two formats ({' and '.join(found[:2])}); leave the columns of "
            "one of them out, or name a list of turns with --text_column"
        )
    return _wanted(FORMATS[found[0]], names)


def preference_columns(data: TextDataArguments) -> list[Wanted]:
    """Return the columns of `dpo`: chosen and rejected, and prompt if there is one."""
    chosen, *others = _wanted(_PREFERENCES, training_columns(data))
    return [chosen._replace(kind=Placed(chosen.kind)), *others]


def preference_check(wanted: Sequence[Wanted]) -> Callable[[Dataset], None]:
    """Return the check of rows with two answers, which names the line of the first one that does not fit.

    Args:
        wanted: the columns, the first of which knows its places; see `preference_columns`.
    """
    placed: Any = wanted[0].kind

    def check(split: Dataset) -> None:
        for row, held in enumerate(split):
            try:
                preference_of(held)
            except Unfit as error:
                raise UsageError(f"{placed.place(row)}: {error}") from error
        placed.forget()

    return check


def _wanted(one: Format, names: Sequence[str], option: str = "another name in the file") -> list[Wanted]:
    kinds = one.needed | {name: kind for name, kind in one.optional.items() if name in names}
    if unread := sorted(set(names) - set(kinds)):
        warnings.warn(f"columns {unread} are not read, only {list(kinds)}; what they say does not count", stacklevel=2)
    return [Wanted(name, kind, option) for name, kind in kinds.items()]


_task_of_trl = partial(causal_task, collate=lambda *_: None, score=None, own_loss=True)  # TRL collates


def chat(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of the assistant's turns in conversations.

    Raises:
        UsageError: TRL is not installed, or the chat template cannot be read.
    """
    trainers = _trainers("chat")
    template = _read_template(data)

    def encode(splits: Splits, tokenizer: Any) -> Splits:
        encoder = trainers.Encoder(tokenizer, template)
        check_shown(encoder.learned_text, map(conversation_of, chain.from_iterable(splits.values())))
        return _encoded(splits, data, partial(_encode_conversations, encoder=encoder, length=data.length))

    return _task_of_trl(
        name="chat",
        splits=splits,
        encode=encode,
        trainer_class=partial(trainers.ChatTrainer, max_length=data.length, packing=data.packing),
        main_metric="perplexity",
        scores=("perplexity", "mean_token_accuracy"),
        panels=(("perplexity",), *PANELS),
        watchers=watchers(data),
        answers=partial(trainers.sample_answers, template=template, conversation=conversation_of),
    )


def dpo(splits: Splits, data: TextDataArguments, metric_source: str = "local") -> Task:
    """Build the task of preferring one answer to another.

    Raises:
        UsageError: TRL is not installed, or the chat template cannot be read.
    """
    trainers = _trainers("dpo")
    from training.trainer.preferences import PreferenceTrainer

    template = _read_template(data)

    def encode(splits: Splits, tokenizer: Any) -> Splits:
        encoder = trainers.Encoder(tokenizer, template)
        rows = map(preference_of, chain.from_iterable(splits.values()))
        check_shown(encoder.text, (([*asked, *chosen], []) for asked, chosen, _ in rows))
        return _encoded(splits, data, partial(_encode_preferences, encoder=encoder, length=data.length))

    return _task_of_trl(
        name="dpo",
        splits=splits,
        encode=encode,
        trainer_class=partial(PreferenceTrainer, max_length=data.length, beta=data.beta),
        main_metric="rewards/accuracies",
        scores=("rewards/accuracies", "rewards/margins"),
        panels=(("rewards/accuracies",), ("rewards/margins",)),
    )


def _trainers(task: str) -> Any:
    try:
        from training.trainer import chat as trainers
    except ImportError as error:
        raise UsageError(f'--task {task} needs TRL: pip install "deep-lora[chat]" (Python 3.11 or newer)') from error
    return trainers


def _read_template(data: TextDataArguments) -> str | None:
    if data.chat_template is None:
        return None
    try:
        return Path(data.chat_template).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"--chat_template {data.chat_template} cannot be read: {error}") from error


def conversation_of(row: dict[str, Any]) -> tuple[Turns, list[dict[str, Any]]]:
    """Return the turns of a row, in whichever format it is, and the tools that they can call."""
    held = {name: json.loads(value) if name not in ("instruction", "output") else value for name, value in row.items()}
    if "instruction" in held:
        asked = "\n\n".join(part for part in (held["instruction"], held.get("input", "")) if part.strip())
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": held["output"]}]
    elif "completion" in held:
        turns = _as_turns(held["prompt"], "user") + _as_turns(held["completion"], "assistant")
    else:
        turns = next(value for name, value in held.items() if name not in ("tools", "system"))
    system = held.get("system", "")
    if system.strip() and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system}, *turns]
    return turns, held.get("tools", [])


def _as_turns(value: str | Turns, role: str) -> Turns:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


class Unfit(ValueError):
    """Why a row with two answers does not fit; the text follows its line."""


def preference_of(row: dict[str, Any]) -> tuple[Turns, Turns, Turns]:
    """Return prompt, chosen and rejected turns of a row.

    Raises:
        Unfit: both answers are the same, a tool is called, or no prompt, or not the same, goes before them.
    """
    held = {name: json.loads(value) for name, value in row.items()}
    sides = {name: held[name] for name in ("chosen", "rejected")}
    prompts = {name: _prompt_of(held, side) for name, side in sides.items()}
    if missing := [name for name, found in prompts.items() if found is None]:
        raise Unfit(
            f"column {missing[0]!r} holds {shown(sides[missing[0]])}, and there is no prompt; add the column 'prompt', "
            "or write both answers as whole conversations"
        )
    if prompts["chosen"] != prompts["rejected"]:
        raise Unfit("columns 'chosen' and 'rejected' hold answers to different prompts; both must answer the same")
    chosen, rejected = (_as_turns(one, "assistant") for one in sides.values())
    known = prompts["chosen"] or []
    asked = _stripped(_as_turns(held.get("prompt", []), "user"))
    if lost := [turn["content"] for turn in asked if turn not in _stripped(known)]:
        raise Unfit(f"column 'prompt' holds {shown(lost[0])}, and 'chosen' does not; write the same prompt in both")
    answers = [one[len(known) :] if one[: len(known)] == known else one for one in (chosen, rejected)]
    if _stripped(answers[0]) == _stripped(answers[1]):
        raise Unfit(f"columns 'chosen' and 'rejected' hold the same answer, {shown(sides['chosen'])}; drop such rows")
    for name, turns in (("chosen", answers[0]), ("rejected", answers[1]), ("prompt", known)):
        if any(one.keys() - {"role", "content"} for one in turns):
            place = name if name in held else "chosen"
            raise Unfit(f"column {place!r} calls tools, or thinks, which --task dpo does not support; drop such rows")
    return known, answers[0], answers[1]


def _stripped(turns: Turns) -> Turns:
    return [one | {"content": one["content"].strip()} for one in turns]


def _prompt_of(held: dict[str, Any], side: str | Turns) -> Turns | None:
    """Return what an answer follows: the conversation before it, or the column prompt; None if there is neither."""
    if not isinstance(side, str) and side[0]["role"] != "assistant":
        return side[:-1]
    return _as_turns(held["prompt"], "user") if "prompt" in held else None


def _rows(rows: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


def _encode_conversations(rows: dict[str, list], encoder: Any, length: int) -> dict[str, list]:
    """Encode conversations; those without a token to learn from within the length are left out."""
    found = [encoder(*conversation_of(row)) for row in _rows(rows)]
    kept = [(ids, labels) for ids, labels in found if any(label != IGNORED for label in labels[:length])]
    return {
        "input_ids": [ids for ids, _ in kept],
        "labels": [labels for _, labels in kept],
        CUT: [max(0, len(ids) - length) for ids, _ in kept],
    }


def _encode_preferences(rows: dict[str, list], encoder: Any, length: int) -> dict[str, list]:
    """Return prompts and answers as turns, which TRL encodes; prompts that fill the length are left out."""
    found: dict[str, list] = {name: [] for name in ("prompt", "chosen", "rejected", CUT)}
    for row in _rows(rows):
        asked, *answers = preference_of(row)
        start = len(encoder.tokens(asked, [], add_generation_prompt=True)["input_ids"])
        longest = max(len(encoder.tokens([*asked, *one], [])["input_ids"]) for one in answers)
        if start < length:
            for held, value in zip(found.values(), (asked, *answers, max(0, longest - length)), strict=True):
                held.append(value)
    return found


def _encoded(splits: Splits, data: TextDataArguments, encode: Callable[[dict[str, list]], dict[str, list]]) -> Splits:
    """Encode all splits, and warn of rows that are cut off or left out.

    Raises:
        UsageError: all rows of a split are left out.
    """
    encoded = replace_columns(splits, encode, "tokens")
    for name, split in encoded.items():
        before = len(splits[name])
        if not len(split):
            raise UsageError(
                f"no conversation of the {name} data has an answer that begins within --max_length {data.length} "
                "tokens; pass a larger one"
            )
        if len(split) < before:
            warnings.warn(
                f"{before - len(split)} of {before} conversations of the {name} data are left out: no answer begins "
                f"within --max_length {data.length} tokens",
                stacklevel=2,
            )
    return encoded
