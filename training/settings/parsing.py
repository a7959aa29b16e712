"""Dataclasses as command lines, also read from a YAML or JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from training.errors import UsageError


def option(default: Any, text: str) -> Any:
    """Return a field with its help."""
    return field(default=default, metadata={"help": text})


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and the default of each option."""


class Parser(HfArgumentParser):
    """A parser that raises errors, so that Python callers get them too, instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].lower()}{message[1:]}; --help shows the options")


def parse(
    types: Sequence[type],
    words: Sequence[str],
    *,
    command: str,
    description: str,
    featured: Iterable[str] | None = None,
) -> tuple[Any, ...]:
    """Make an instance of each dataclass from `[--config FILE] [--name value ...]`; the command line wins.

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
    words = with_config_file(words, option_names(types))
    try:
        *found, rest = parser.parse_args_into_dataclasses(
            args=words, look_for_args_file=False, return_remaining_strings=True
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error
    if rest:
        raise UsageError(_unknown(rest[0], parser))
    return tuple(found)


def option_names(types: Sequence[type]) -> set[str]:
    """Return the names of all options."""
    return {entry.name for kind in types for entry in dataclasses.fields(kind) if entry.init}


def build_parser(types: Sequence[type], command: str, description: str) -> Parser:
    """Return the parser of a command, with the options in groups by dataclass."""
    return Parser(
        types,
        prog=f"deep-lora {command}",
        description=description,
        usage=f"deep-lora {command} [--config settings.yaml|settings.json] [--name value ...]",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def with_config_file(words: list[str], known: set[str]) -> list[str]:
    """Replace `--config FILE` by what the file says, before all other words, so that they win.

    Raises:
        UsageError: see `read_settings`; or `--config` comes without a file.
    """
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words:
        return words
    position = words.index("--config")
    if position + 1 == len(words):
        raise UsageError("--config needs the name of a YAML or JSON file")
    path = Path(words[position + 1])
    return settings_as_words(read_settings(path), known, str(path)) + words[:position] + words[position + 2 :]


def read_settings(path: Path) -> dict[str, Any]:
    """Read the options in a YAML or JSON file.

    Raises:
        UsageError: there is no such file, it does not parse, or it holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} holds a {type(settings).__name__}; it must map names of options to values")
    return settings


def settings_as_words(settings: Mapping[str, Any], known: set[str], source: str) -> list[str]:
    """Return options as words of a command line, so that they are checked like those; None leaves an option out.

    Args:
        settings: values by option.
        known: the options there are.
        source: where the settings come from, for errors.

    Raises:
        UsageError: there is no such option.

    >>> settings_as_words({"rank": 4, "metrics": ["accuracy", "f1"], "seed": None}, {"rank", "metrics", "seed"}, "")
    ['--rank=4', '--metrics', 'accuracy', 'f1']
    """
    if unknown := sorted(map(str, set(settings) - known)):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"{source} names unknown options {unknown}{hint}")
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, (list, tuple)):
            words += [f"--{name}", *map(_word, value)]
        elif value is not None:
            words.append(f"--{name}={_word(value)}")
    return words


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(getattr(value, "value", value))


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "--help_all lists what there is"
    return f"unknown option {word}; {hint}"


def _hide(parser: argparse.ArgumentParser, kind: type, featured: set[str]) -> None:
    """Leave options of a dataclass out of the help, unless they are featured."""
    hidden = {entry.name for entry in dataclasses.fields(kind)} - featured
    for action in parser._actions:
        if action.dest in hidden:
            action.help = argparse.SUPPRESS
