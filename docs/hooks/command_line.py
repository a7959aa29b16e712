"""The options of `deep-lora` as a page of the site, from the parsers that read them."""

from __future__ import annotations

import argparse
import dataclasses
import html
import importlib
import re
from typing import Any

PAGE = "command_line.md"
TRANSFORMERS = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"


def on_files(files: Any, config: Any) -> Any:
    """Add the page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Return the text of the page."""
    from training.cli import COMMANDS

    intro = (
        "# Command line\n\nWhat `deep-lora <command> --help_all` prints. How the commands are used is in "
        "[From a csv to an adapter](training.md). Every command takes `--config settings.yaml`, a YAML or JSON file "
        "with options; the command line wins.\n\n| command | |\n|---|---|\n"
    )
    rows = [f"| [`{name}`](#deep-lora-{name}) | {text} |" for name, text in COMMANDS.items()]
    return intro + "\n".join(rows) + "\n\n" + "\n\n".join(section(name, text) for name, text in COMMANDS.items()) + "\n"


def section(command: str, text: str) -> str:
    """Return what the page says of a command."""
    module = importlib.import_module("training.configs" if command == "configs" else _module(command))
    if not hasattr(module, "TYPES"):
        return f"## deep-lora {command}\n\n{text[0].upper()}{text[1:]}. It has no options."
    parts = [f"## deep-lora {command}", described(module.DESCRIPTION)]
    for kind in module.TYPES:
        if rows := table(kind, command):
            title = getattr(kind, "_argument_group_name", "").partition(" (")[0]
            parts += ([f"### {command}: {title}"] if len(module.TYPES) > 1 else []) + [rows]
            if issubclass(kind, _transformers_arguments()):
                parts.append(f"And every option of [transformers' `TrainingArguments`]({TRANSFORMERS}).")
    return "\n\n".join(parts)


def _module(command: str) -> str:
    return f"training.commands.{command.replace('-', '_')}"


def _transformers_arguments() -> type:
    from transformers import TrainingArguments

    return TrainingArguments


def described(text: str) -> str:
    """Return a description with its examples, which are indented, as code."""
    parts = []
    for block in re.split(r"\n\s*\n", text):
        parts.append(f"```sh\n{_dedented(block)}\n```" if block.startswith("  ") else _inline(block))
    return "\n\n".join(parts)


def _dedented(block: str) -> str:
    return "\n".join(line.removeprefix("  ") for line in block.splitlines())


def table(kind: type, command: str) -> str:
    """Return a row for each option of a dataclass; of a subclass of `TrainingArguments`, for those that are its own."""
    from training.settings.parsing import build_parser

    parser = build_parser((kind,), command, "")
    formatter = parser.formatter_class(parser.prog)
    own = own_options(kind)
    rows = [row(action, formatter) for action in parser._actions if action.dest in own]
    return "| option | |\n|---|---|\n" + "\n".join(rows) if rows else ""


def own_options(kind: type) -> set[str]:
    """Return the names of the options of a dataclass that are not transformers'."""
    names = {entry.name for entry in dataclasses.fields(kind) if entry.init}
    if issubclass(kind, _transformers_arguments()):
        own = [one for one in kind.__mro__ if issubclass(one, _transformers_arguments())]
        return names & {name for one in own if one is not _transformers_arguments() for name in one.__annotations__}
    return names


def row(action: argparse.Action, formatter: Any) -> str:
    """Return the row of an option, worded as its help is."""
    words = _inline(formatter._get_help_string(action).replace("%%", "%"))
    return f"| `{formatter._format_action_invocation(action)}` | {words} |"


def _inline(text: str) -> str:
    """Return a help text for Markdown, with options as code."""
    escaped = html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
    return re.sub(r"--[a-z][\w\\-]*", lambda found: f"`{found[0]}`".replace("\\", ""), escaped)
