"""Tables of what commands of the command line did: a chat run in `docs/chat.md`, comparisons in `docs/training.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.markdown import interval, markdown
from benchmarks.result_files import result

DATA = {"simlex": "SimLex-999", "wordsim": "WordSim-353", "reviews": "Rotten Tomatoes"}
TURNS = 3  # of a conversation, whose first one is shown


def chat_run() -> str:
    """Write what became of a chat run, from its losses to the logits of llama.cpp."""
    found = result("chat_run")
    drift, away = found["drift"], found["largest_difference_of_logits"]
    samples, equal = found["samples"], f"{found['equal_answers']} of {len(found['answers'])}"
    rows = [
        ["conversations of three turns", f"{samples['train']} for training, {samples['validation']} held out"],
        ["steps", f"{found['steps']}; killed, and resumed from {found['resumed_from']}"],
        ["held-out loss per assistant token", f"{found['loss_of_base']:.2f} before, {found['loss']:.2f} after"],
        ["perplexity on film reviews, which measures forgetting",
         f"{drift['general_perplexity_of_base']:.1f} before, {drift['general_perplexity']:.1f} after"],
        ["logits: what the adapter changes, at most", f"{away['what the adapter changes']:.2g}"],
        ["logits: llama.cpp against torch, base alone, at most", f"{away['base, cache F16']:.1g}"],
        ["the same, with the adapter", f"{away['adapter, cache F16']:.1g}"],
        ["answers with the same tokens in torch and llama.cpp", equal],
    ]  # fmt: skip
    return markdown(["", "measured"], rows)


def chat_answers() -> str:
    """Write the answers to the first held-out conversation."""
    shown = ("question", "base", "torch", "llama.cpp")
    rows = [[" ".join(row[name].split()) for name in shown] for row in result("chat_run")["answers"][:TURNS]]
    return markdown(["held-out question", "before", "after", "after, llama.cpp"], rows)


def compared() -> str:
    """Write the command's verdict on each task, beside the study's."""
    rows = [compared_row(name, task) for name, task in result("compare_command")["tasks"].items()]
    return markdown(["64 samples", "`deep-lora compare`", "verdict", "the study", "verdict"], rows)


def compared_row(name: str, task: dict[str, Any]) -> list[str]:
    difference, theirs = list(task["methods"].values())[1]["difference"], task["study"]
    cells = [(difference, len(task["seeds"])), (theirs["difference"], theirs["seeds"])]
    texts = [(f"{interval(found, 100, 1, '+')}, {seeds} pairs", verdict(found)) for found, seeds in cells]
    return [DATA[name], *(text for pair in texts for text in pair)]


def verdict(difference: dict[str, float]) -> str:
    """Say who is ahead, as the command does.

    >>> verdict({"mean": 0.2, "low": -0.1, "high": 0.5}), verdict({"mean": -0.2, "low": -0.3, "high": -0.1})
    ('level', 'LoRA')
    """
    if difference["low"] <= 0 <= difference["high"]:
        return "level"
    return "Deep LoRA" if difference["low"] > 0 else "LoRA"


CHAT: Mapping[str, Callable[[], str]] = {"chat run": chat_run, "chat answers": chat_answers}
COMPARED: Mapping[str, Callable[[], str]] = {"compared": compared}
