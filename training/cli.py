"""`deep-lora`: find the command, and turn its errors into a sentence and an exit status.

Exit status: 0 done, 1 the run failed, 2 an argument cannot work, 130 interrupted.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

from training.errors import RunError, UsageError, redacted

COMMANDS = {
    "finetune": "fine-tune a language model for classes, tags, texts or chats",
    "classify": "fine-tune an image classifier",
    "contrastive": "train on pairs of images and texts, or of two texts",
    "compare": "Deep LoRA and LoRA on your own data: which is better?",
    "predict": "predict for new data with a finished run",
    "complete": "complete a matrix from some of its entries, such as ratings",
    "convert": "write an adapter as a plain LoRA adapter",
    "merge": "merge an adapter into its base model",
    "inspect": "effective rank, sizes and spectra of an adapter",
    "serve-check": "tell which programs will load an adapter, and why others will not",
    "push": "upload a finished run to the Hub, with a model card",
    "configs": "print where the accelerate and DeepSpeed configurations are",
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
            "usage: deep-lora <command> [--config settings.yaml] [--name value ...]",
            "",
            "Deep LoRA, LoRA and every other PEFT method, from one CPU to many GPUs:",
            "",
            *lines,
            "",
            "  deep-lora <command> --help       common options of a command (--help_all: all)",
            "  deep-lora --version              the version of this package",
            "  deep-lora <command> --dry_run    checks what would be done (not predict,",
            "                                   merge, inspect, serve-check, push, configs)",
            "  accelerate launch --no_python deep-lora <command> ...",
            "",
            "  deep-lora finetune --model distilbert-base-uncased --dataset reviews.csv",
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
        with _plain_warnings():
            return importlib.import_module(find_command(words[0])).main(words[1:])
    except UsageError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted; rerun the same command to resume from the last complete checkpoint", 130)
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is needed and not installed: {_EXTRA}", 1)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings as a line without a place in the code, on the first process, and none about libraries' futures."""
    before = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if int(os.environ.get("RANK", "0") or 0) > 0:
            warnings.simplefilter("ignore")
        warnings.formatwarning = lambda message, *_, **__: f"warning: {redacted(str(message))}\n"
        try:
            yield
        finally:
            warnings.formatwarning = before


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
