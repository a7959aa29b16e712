"""`deep-lora serve-check`: which programs will load an adapter, and why others will not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deep_lora import AdapterFileError, Serving, check_serving
from training.errors import UsageError, worded_as_options
from training.names import ADAPTER, ADAPTER_CONFIG
from training.settings.parsing import option, parse

DESCRIPTION = """Check whether PEFT, transformers, sentence-transformers, vLLM, SGLang, TGI, llama.cpp and diffusers
will load an adapter, and if not, why.

  deep-lora serve-check runs/reviews
  deep-lora serve-check runs/reviews/adapter --programs vllm sglang

The rules come from the programs' published sources; the docs name the versions. Nothing is started, and only the
header of the weights is read. With --programs the exit status is 1 if one of them will not load the adapter, or if that
cannot be told."""


@dataclass
class ServeCheckArguments:
    """What is checked, and for whom."""

    adapter: str | None = option(None, "Folder of the adapter or of the run; --adapter itself may be left out.")
    programs: list[str] | None = field(default=None, metadata={"help": "Check only for these, such as vllm sglang."})


TYPES = (ServeCheckArguments,)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    words = ["--adapter", *words] if words and not words[0].startswith("-") else list(words)
    (arguments,) = parse(TYPES, words, command="serve-check", description=DESCRIPTION)
    if not arguments.adapter:
        raise UsageError("serve-check needs the folder of an adapter or of a run")
    with worded_as_options({}, AdapterFileError):
        found = check_serving(adapter_folder(Path(arguments.adapter)))
    chosen = found if arguments.programs is None else choose(found, arguments.programs)
    print("\n".join(map(line, chosen)))
    return int(arguments.programs is not None and not all(one.loads for one in chosen))


def adapter_folder(folder: Path) -> Path:
    """Return the folder of the adapter, where that of a run was named."""
    return folder / ADAPTER if not (folder / ADAPTER_CONFIG).is_file() and (folder / ADAPTER).is_dir() else folder


def choose(found: list[Serving], names: list[str]) -> list[Serving]:
    """Return those of these names, in any spelling.

    Raises:
        UsageError: there is no such program.
    """
    known = {plain(one.program): one for one in found}
    unknown = [name for name in names if plain(name) not in known]
    if unknown:
        raise UsageError(f"--programs got {unknown[0]!r}; choose from: {', '.join(one.program for one in found)}")
    return [known[plain(name)] for name in names]


def plain(name: str) -> str:
    """Return a name without capitals, points and dashes.

    >>> plain("llama.cpp"), plain("sentence-transformers")
    ('llamacpp', 'sentencetransformers')
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())


def line(one: Serving) -> str:
    """Return the answer for one program."""
    if one.loads:
        return f"{one.program:>22}  loads" + (f" ({one.advice})" if one.advice else "")
    if one.reasons:
        return f"{one.program:>22}  no: {'; '.join(one.reasons)}"
    return f"{one.program:>22}  cannot tell: {one.unknown}"
