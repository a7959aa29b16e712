"""Dataclasses as command lines, also read from a YAML or JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from training.errors import UsageError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and the default of each option."""


def parse(
    types: Sequence[type],
    words: Sequence[str],
    *,
    command: str,
    description: str,
    featured: Iterable[str] | None = None,
) -> tuple[Any, ...]:
    """One instance of each dataclass, from `[--config FILE] [--name value ...]`; the command line wins over the file.

    Args:
        types: dataclasses whose fields are the options; names must differ.
        words: the command line without the program and command.
        command: name of the command, for the help.
        featured: options of the last dataclass that `--help` shows; `--help_all` shows all. None shows all.

    Raises:
        UsageError: for a file that cannot be read, an unknown option, or a value that does not fit.
    """
    parser = build_parser(types, command, description)
    words = list(words)
    if "--help_all" in words or "--help-all" in words:
        parser.print_help()
        parser.exit(0)
    if featured is not None:
        _hide(parser, types[-1], set(featured))
    words = with_config_file(words, {entry.name for kind in types for entry in dataclasses.fields(kind) if entry.init})
    try:
        *found, rest = parser.parse_args_into_dataclasses(
            args=words, look_for_args_file=False, return_remaining_strings=True
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error
    if rest:
        raise UsageError(_unknown(rest[0], parser))
    return tuple(found)


def build_parser(types: Sequence[type], command: str, description: str) -> HfArgumentParser:
    """The parser of a command, with the options in groups by dataclass."""
    return HfArgumentParser(
        types,
        prog=f"deep-lora {command}",
        description=description,
        usage=f"deep-lora {command} [--config settings.yaml|settings.json] [--name value ...]",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def with_config_file(words: list[str], known: set[str]) -> list[str]:
    """The words with `--config FILE` replaced by what the file says, before everything else, so that they win.

    Raises:
        UsageError: see `settings_as_words`; or `--config` comes without a file.
    """
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words:
        return words
    position = words.index("--config")
    if position + 1 == len(words):
        raise UsageError("--config needs the name of a YAML or JSON file")
    path = Path(words[position + 1])
    return settings_as_words(path, known) + words[:position] + words[position + 2 :]


def settings_as_words(path: Path, known: set[str]) -> list[str]:
    """The options in a YAML or JSON file as words of a command line, so that both are checked alike.

    Raises:
        UsageError: there is no such file, it does not parse or holds no mapping, or it names an unknown option.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} holds a {type(settings).__name__}; it must map names of options to values")
    if unknown := sorted(map(str, set(settings) - known)):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"{path} names unknown options {unknown}{hint}")
    words: list[str] = []
    for name, value in settings.items():
        if value is not None:
            words += [f"--{name}", *(_word(item) for item in (value if isinstance(value, list) else [value]))]
    return words


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "--help_all lists what there is"
    return f"there is no option {word}; {hint}"


def _hide(parser: argparse.ArgumentParser, kind: type, featured: set[str]) -> None:
    """Leaves options of a dataclass out of the help, unless they are featured."""
    hidden = {entry.name for entry in dataclasses.fields(kind)} - featured
    for action in parser._actions:
        if action.dest in hidden:
            action.help = argparse.SUPPRESS
