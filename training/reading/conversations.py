"""Columns with conversations: lists of turns as OpenAI or ShareGPT write them, and tools; kept as JSON in each row.

A sound conversation may begin with a system turn; then user and assistant take turns, and the assistant has the last
word. A turn of the assistant may call tools, whose answers follow it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from training.reading.kinds import Column, Typed
from training.reading.visible import is_blank

ROLES = ("system", "user", "assistant", "tool")
_OPENAI = {"developer": "system"} | {role: role for role in ROLES}
_SHAREGPT = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "tool": "tool", "function_response": "tool",
    "observation": "tool",
}  # fmt: skip
_KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking")
_WEIGHTS = ("weight", "train", "training", "loss")  # whether a turn is learned: OpenAI, Axolotl, ms-swift
_READ = {"role", "content", "from", "value", *_KEPT, *_WEIGHTS}
Turns = list[dict[str, Any]]


class _Unsound(ValueError):
    """Why a conversation is unsound; the text follows the column and the line."""


def conversation(column: Column) -> Typed:
    """Return whole conversations, which end with a turn of the assistant.

    Raises:
        UsageError: column and line of the first one that is unsound, and what is wrong with it.
    """
    return _of_turns(column, lambda value, unread: _checked(turns_of(value, unread)))


def prompt(column: Column) -> Typed:
    """Return prompts: texts, or conversations in which it is the assistant's turn.

    Raises:
        UsageError: column and line of the first one that is unsound, and what is wrong with it.
    """
    return _of_turns(column, lambda value, unread: _open(turns_of(value, unread)), texts=True)


def answer(column: Column) -> Typed:
    """Return what follows a prompt: texts, or turns of which the first and the last are the assistant's.

    Raises:
        UsageError: column and line of the first one that is unsound, and what is wrong with it.
    """
    return _of_turns(column, lambda value, unread: _answering(turns_of(value, unread)), texts=True)


def answer_or_conversation(column: Column) -> Typed:
    """Return texts, answers, or whole conversations.

    Raises:
        UsageError: column and line of the first one that is unsound, and what is wrong with it.
    """
    return _of_turns(column, lambda value, unread: _either(turns_of(value, unread)), texts=True)


def tools(column: Column) -> Typed:
    """Return the tools that a conversation can call, as JSON schemas; an empty list if nothing is written.

    Raises:
        UsageError: column and line of a value that is not a list of objects.
    """
    return _as_json(column, _tools, missing="[]")


def optional_text(column: Column) -> Typed:
    """Return texts, which may be empty.

    Raises:
        UsageError: column and line of a value that is not a text.
    """
    return _as_json(column, lambda value: _text(value, empty=True), missing='""')


def turns_of(value: Any, unread: set[str] | None = None) -> Turns:
    """Return the turns of a list as OpenAI or ShareGPT write it, in OpenAI's terms.

    Args:
        value: the list, or JSON of it.
        unread: gets what turns hold that is not read.

    Raises:
        ValueError: what is wrong.

    >>> turns_of([{"from": "human", "value": "Hello"}, {"role": "assistant", "content": "Hi"}])
    [{'role': 'user', 'content': 'Hello'}, {'role': 'assistant', 'content': 'Hi'}]
    """
    if isinstance(value, str):
        value = _parsed(value, "a list of turns")
    if not isinstance(value, list):
        raise _Unsound(f"it must be a list of turns, not {_kind(value)}")
    if not value:
        raise _Unsound("the conversation has no turns")
    turns = [_turn(number, one) for number, one in enumerate(value, start=1)]
    if unread is not None:
        unread.update(str(key) for one in value for key, held in one.items() if key not in _READ and held)
    return turns


def _turn(number: int, one: Any) -> dict[str, Any]:
    if not isinstance(one, dict):
        raise _Unsound(f"turn {number} is {_kind(one)}, not an object with a role and a content")
    shared = one.get("from") is not None and one.get("role") is None
    name, known = (one["from"], _SHAREGPT) if shared else (one.get("role"), _OPENAI)
    if name is None:
        raise _Unsound(f"turn {number} has no role (it has {', '.join(map(str, one)) or 'nothing'})")
    if not isinstance(name, str) or name not in known:
        raise _Unsound(f"turn {number} has the role {str(name)[:40]!r}; known are {', '.join(known)}")
    role = known[name]
    weights = {key: one[key] for key in _WEIGHTS if one.get(key) not in (None, 1) and role == "assistant"}
    for key, held in weights.items():
        raise _Unsound(
            f"turn {number} has {key}: {held}; every turn of the assistant is learned, so drop what weighs them, and "
            "the conversations that should not count"
        )
    kept = {key: one[key] for key in _KEPT if one.get(key) is not None}
    for key in kept.keys() & {"reasoning_content", "thinking"}:
        _text(kept[key], f"the {key} of turn {number}", empty=True)
    if "tool_calls" in kept:
        kept["tool_calls"] = _calls(number, role, kept["tool_calls"])
    content = _content(number, one.get("value" if shared else "content"), calls=bool(kept.get("tool_calls")))
    if is_blank(content) and not kept.get("tool_calls"):
        raise _Unsound(f"turn {number}, of the {role}, is empty")
    return {"role": role, "content": content} | kept


def _content(number: int, content: Any, *, calls: bool) -> str:
    """Return a text, or the texts of several parts; a turn that calls tools needs none."""
    if content is None:
        if calls:
            return ""
        raise _Unsound(f"turn {number} has no content")
    if isinstance(content, list):
        kinds = {str(part.get("type")) if isinstance(part, dict) else _kind(part) for part in content}
        if kinds - {"text"}:
            raise _Unsound(f"turn {number} holds parts of the kind {sorted(kinds - {'text'})[0]}; only texts fit")
        content = "".join(_text(part.get("text"), f"a part of turn {number}", empty=True) for part in content)
    return _text(content, f"the content of turn {number}", empty=True)


def _calls(number: int, role: str, calls: Any) -> list[dict[str, Any]]:
    """Check calls of tools; arguments that are written as JSON become objects, as templates expect them."""
    if role != "assistant":
        raise _Unsound(f"turn {number} calls tools, but is of the {role}; only the assistant can")
    if not isinstance(calls, list) or not all(isinstance(one, dict) for one in calls):
        raise _Unsound(f"the tool_calls of turn {number} are not a list of objects")
    found = []
    for one in calls:
        function = one.get("function") or one
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _Unsound(f"a tool call of turn {number} names no function")
        function, what = dict(function), f"the arguments of a tool call of turn {number}"
        if isinstance(function.get("arguments"), str):
            function["arguments"] = _parsed(function["arguments"], what)
        if not isinstance(function.get("arguments"), dict | None):
            raise _Unsound(f"{what} must be an object, not {_kind(function['arguments'])}")
        found.append({**one, "type": "function", "function": function} if "function" in one else
                     {"type": "function", "function": function})  # fmt: skip
    return found


def _checked(turns: Turns) -> Turns:
    """Check that roles follow each other as they should, and that the assistant has the last word."""
    _check_order(turns)
    if all(one["role"] != "assistant" for one in turns):
        raise _Unsound("no turn is the assistant's, so there is nothing to learn")
    if turns[-1]["role"] != "assistant":
        raise _Unsound(f"the last turn is the {turns[-1]['role']}'s; an answer of the assistant is missing")
    return turns


def _open(turns: Turns) -> Turns:
    _check_order(turns)
    if turns[-1]["role"] not in ("user", "tool"):
        raise _Unsound(f"the last turn of the prompt is the {turns[-1]['role']}'s; it must be the user's or a tool's")
    return turns


def _answering(turns: Turns) -> Turns:
    for one, side in ((turns[0], "first"), (turns[-1], "last")):
        if one["role"] != "assistant":
            raise _Unsound(f"the {side} turn of the answer is the {one['role']}'s; it must be the assistant's")
    _check_order([{"role": "user"}, *turns], shift=-1)
    return turns


def _either(turns: Turns) -> Turns:
    return _answering(turns) if turns[0]["role"] == "assistant" else _checked(turns)


_FOLLOWS = {  # what may stand before a turn
    "user": ("system", "assistant", None), "assistant": ("user", "tool"), "tool": ("assistant", "tool"),
}  # fmt: skip


def _check_order(turns: Sequence[dict[str, Any]], shift: int = 0) -> None:
    before = None
    for number, one in enumerate(turns, start=1 + shift):
        role = one["role"]
        if role == "system":
            if before is not None:
                raise _Unsound(f"turn {number} is a system turn; it can only be the first")
        elif before == role and role != "tool":
            raise _Unsound(f"turns {number - 1} and {number} are both the {role}'s; join them")
        elif before not in _FOLLOWS[role]:
            place = "first" if before is None else f"after a turn of the {before}"
            raise _Unsound(f"turn {number}, of the {role}, stands {place}; user and assistant must take turns")
        before = role


def _tools(value: Any) -> list[dict[str, Any]]:
    found = _parsed(value, "a list of tools") if isinstance(value, str) and value.strip() else value or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _Unsound("tools are a list of objects, each the JSON schema of a function")
    return found


def _text(value: Any, what: str = "it", *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise _Unsound(f"{what} must be a text, not {_kind(value)}")
    if not empty and is_blank(value):
        raise _Unsound(f"{what} is empty")
    if "\0" in value:
        raise _Unsound(f"{what} holds a NUL character; remove it, or export the file again")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _Unsound(f"{what} holds half of a surrogate pair, which is not a character; save the file again as UTF-8")
    return value


def _parsed(value: str, what: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _Unsound(f"{what} should be JSON, and is not: {error}") from error


def _kind(value: object) -> str:
    names = {
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        dict: "an object",
        list: "a list",
    }
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _of_turns(column: Column, parse: Callable[[Any, set[str]], Turns], *, texts: bool = False) -> Typed:
    """Return turns, or texts where there may be some, and tell what turns hold that is not read."""
    unread: set[str] = set()

    def parsed(value: Any) -> str | Turns:
        return _text(value) if texts and isinstance(value, str) else parse(value, unread)

    found = _as_json(column, parsed)
    if unread:
        warnings.warn(
            f"turns in column {column.name!r} hold {', '.join(sorted(unread))}, which is not read, and says nothing of "
            "what is learned",
            stacklevel=2,
        )
    return found


def _as_json(column: Column, parse: Callable[[Any], Any], missing: str | None = None) -> Typed:
    rows: list[str | None] = []
    for row, value in enumerate(column.listed()):
        if value is None:
            rows.append(missing)
            continue
        try:
            rows.append(json.dumps(_plain(parse(value)), ensure_ascii=False))
        except ValueError as error:
            raise column.wrong(row, value, str(error)) from error
    return pa.array(rows, pa.string()), None


def _plain(value: Any) -> Any:
    """Drop what is nothing: stores of tables fill objects of different keys with it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one is not None}
    return [_plain(one) for one in value] if isinstance(value, list) else value
