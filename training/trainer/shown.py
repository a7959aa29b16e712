"""What a chat template leaves out of conversations: nothing else would tell that it is not learned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from training.errors import UsageError

_WORD = "qzprobe"  # which no template writes by itself
_THOUGHTS = ("reasoning_content", "thinking")
Turns = list[dict[str, Any]]
Write = Callable[[Turns, list[Any]], str]
_CONTENTS = {
    "tool_calls": "calls of tools", "content of tool": "answers of tools", "content of user": "what the user says",
    "content of assistant": "what the assistant says", "content of system": "system turns",
}  # fmt: skip


def check_shown(write: Write, conversations: Iterable[tuple[Turns, list[Any]]]) -> None:
    """Write a word in the place of each thing that conversations hold, once of each kind, and look for it.

    Args:
        write: turns and tools -> the text that a template makes of them.
        conversations: turns and tools of each.

    Raises:
        UsageError: the template leaves out what is said, or calls of tools: the model would learn answers to nothing.

    Warns:
        UserWarning: it leaves out thoughts, or the tools that can be called.

    >>> check_shown(lambda turns, tools: str(turns), [([{"role": "user", "content": "Hello"}], [])])
    """
    known: set[str] = set()
    for turns, tools in conversations:
        for what, changed, changed_tools in _with_words(turns, tools):
            if what in known:
                continue
            known.add(what)
            if _WORD in write(changed, changed_tools):
                continue
            if what in _CONTENTS:
                raise UsageError(
                    f"the chat template leaves out {_CONTENTS[what]}, so the model would learn without; pass a "
                    "--chat_template that shows it, or drop such conversations"
                )
            warnings.warn(
                f"the chat template leaves out {what}, so the model does not learn from it; pass a --chat_template "
                "that shows it if it should",
                stacklevel=2,
            )


def _with_words(turns: Turns, tools: list[Any]) -> Iterator[tuple[str, Turns, list[Any]]]:
    """Give the kind of each thing, and the conversation with a word in its place."""

    def changed(number: int, **fields: Any) -> Turns:
        return [*turns[:number], turns[number] | fields, *turns[number + 1 :]]

    for number, one in enumerate(turns):
        if one["content"].strip() and not one.get("tool_calls"):  # templates may leave out words beside a call
            yield f"content of {one['role']}", changed(number, content=_WORD), tools
        if one.get("tool_calls"):
            calls = [call | {"function": call["function"] | {"name": _WORD}} for call in one["tool_calls"]]
            yield "tool_calls", changed(number, tool_calls=calls), tools
        for name in _THOUGHTS:
            if one.get(name, "").strip():  # many templates drop thoughts once the user has spoken again
                yield name, changed(number, **{name: _WORD})[: number + 1], tools
    if tools:
        yield "tools", turns, [_named(tool) for tool in tools]


def _named(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    return tool | ({"function": function | {"name": _WORD}} if isinstance(function, dict) else {"name": _WORD})
