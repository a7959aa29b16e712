"""Tiny conversations in every format, and a tiny model that can chat."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.training import tiny

# ChatML, as many models have it, without marks; the tiny tokenizer knows its words.
TEMPLATE = (
    "{% for message in messages %}{{ '[CLS] ' + message['role'] + ' ' + message['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[CLS] assistant ' }}{% endif %}"
)
MARKED = TEMPLATE.replace(
    "message['role'] + ' ' + message['content'] + ' </s> ' }}",
    "message['role'] + ' ' }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + ' </s> ' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + ' </s> ' }}{% endif %}",
).replace("{{ '[CLS] ' + {", "{")

WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ '[CLS] ' + tool['function']['name'] + ' </s> ' }}{% endfor %}"
    + TEMPLATE.replace("message['content']", "(message['content'] or message['tool_calls'][0]['function']['name'])")
)


def save_chat_model(folder: Path, template: str | None = TEMPLATE) -> Path:
    tiny.save_llama(folder, width=16)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def turns(seed: int, rounds: int = 2, system: bool = True) -> list[dict[str, Any]]:
    """The assistant answers with a good word if it was asked with one."""
    generator = random.Random(seed)
    found = [{"role": "system", "content": "the film was"}] if system else []
    for number in range(rounds):
        good = (seed + number) % 2 == 1
        found.append({"role": "user", "content": tiny.sentence(generator, good)})
        found.append({"role": "assistant", "content": (tiny.GOOD if good else tiny.BAD)[seed % 3]})
    return found


def tool_row(seed: int) -> dict[str, Any]:
    """A conversation in which the assistant calls a tool before it answers."""
    asked, said = turns(seed, 1, system=False)
    call = {"type": "function", "function": {"name": "film", "arguments": {"number": seed}}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    tool = {"type": "function", "function": {"name": "film", "description": "finds", "parameters": {"type": "object"}}}
    return {"messages": [asked, called, {"role": "tool", "content": "good film"}, said], "tools": [tool]}


def save_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sharegpt(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[one["role"]], "value": one["content"]} for one in found]


def rows(kind: str, count: int = 20) -> list[dict[str, Any]]:
    """Rows of one format, all with the same conversations of one round."""
    found = []
    for seed in range(count):
        asked, said = turns(seed, 1, system=False)
        other = turns(seed + 1, 1, system=False)[1]
        found.append({
            "messages": {"messages": [asked, said]},
            "ShareGPT": {"conversations": sharegpt([asked, said])},
            "Alpaca": {"instruction": asked["content"], "input": "", "output": said["content"]},
            "prompt and completion": {"prompt": asked["content"], "completion": said["content"]},
            "turns of prompt and completion": {"prompt": [asked], "completion": [said]},
            "preferences": {"prompt": asked["content"], "chosen": said["content"], "rejected": other["content"]},
            "preferences of whole conversations": {"chosen": [asked, said], "rejected": [asked, other]},
        }[kind])  # fmt: skip
    return found
