"""`deep-lora`: find the command, and turn its errors into a sentence and an exit status.

Exit status: 0 done, 1 the run failed, 2 an argument cannot work, 130 interrupted.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from training.errors import RunError, UsageError, redacted

COMMANDS = {
    "finetune": "fine-tune a language model: classification, tags, causal LM, seq2seq, chat, dpo",
    "classify": "fine-tune an image classifier",
    "contrastive": "train on pairs of images and texts, or of texts, with a small gap between the modalities",
    "complete": "complete a matrix from some of its entries, such as ratings",
    "convert": "write an adapter as a plain LoRA adapter",
    "inspect": "effective rank, sizes and spectra of an adapter, module by module",
    "serve-check": "say which servers and libraries will load an adapter, and why others will not",
    "push": "upload a finished run to the Hub, with a model card",
    "configs": "print the folder of ready-made accelerate and DeepSpeed configurations",
}
_MODULES = {name: f"training.commands.{name.replace('-', '_')}" for name in COMMANDS} | {"configs": "training.configs"}
# What pip installs for an import that is missing.
_EXTRA = 'pip install "deep-lora[training]"'


def usage() -> str:
    """Return the help of `deep-lora` itself; each command has its own."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            "usage: deep-lora <command> [--config settings.yaml|settings.json] [--name value ...]",
            "",
            "Deep LoRA, LoRA and every other PEFT method, from one CPU to many GPUs:",
            "",
            *lines,
            "",
            "  deep-lora <command> --help       what a command takes (--help_all: every option of transformers, too)",
            "  deep-lora --version              the version of this package",
            "  deep-lora <command> --dry_run    what would be done (not inspect, serve-check, push, configs)",
            "  accelerate launch --no_python deep-lora <command> ...    the same on several processes or machines",
            "",
            "  deep-lora finetune --model distilbert-base-uncased --dataset reviews.csv --output_dir runs/reviews",
        ]
    )


def find_command(name: str) -> str:
    """Return the module of a command.

    Raises:
        UsageError: There is no such command.
    """
    if name in _MODULES:
        return _MODULES[name]
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(COMMANDS)}"
    raise UsageError(f"unknown command {name!r}; {hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        _print(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        _print(f"deep-lora {_version()}")
        return 0
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs missing kernels on import
    try:
        return importlib.import_module(find_command(words[0])).main(words[1:])
    except UsageError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted; rerun the same command to resume from the last complete checkpoint", 130)
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is needed and not installed: {_EXTRA}", 1)


def _version() -> str:
    try:
        return metadata.version("deep-lora")
    except metadata.PackageNotFoundError:
        return "of a folder that is not installed"


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough; what Python flushes at the end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(reason: object, status: int) -> int:
    print(f"error: {redacted(str(reason))}", file=sys.stderr, flush=True)
    return status
