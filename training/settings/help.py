"""The help of a command: one screen of common options, or all of them by group, in 80 columns."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 80
_NAME = 28  # columns of the name of an option
_CONTINUED = " \\\n     "  # where an example goes on in the next line
_COMMON_NAME = 32  # and of a common one, in a line with its help
# Of common options, where the first words of their help are not enough for a line.
SHORT = {
    "model": "base model: folder or name on the Hub", "dataset": "file, folder or data set on the Hub",
    "task": "classification, regression, multilabel, token_classification, causal_lm, seq2seq, chat or dpo",
    "text_column": "column with the text, or with the words",
    "label_column": "column with classes, numbers or tags",
    "target_column": "causal_lm, seq2seq: column with the answer",
    "validation_data": "another file to validate on", "test_data": "another file to test on", "seeds": "pairs of runs",
    "tune": "also LoRA at the best of five rates",
    "metrics": "metrics, the most important first",
    "max_length": "tokens after which a text is cut off", "output_dir": "folder for all files",
    "num_train_epochs": "passes; if unset, 3, or 100 steps", "max_steps": "steps instead of passes",
    "learning_rate": "learning rate; 1e-3 if unset", "per_device_train_batch_size": "samples of a step on each process",
    "adapter": "deep_lora or lora", "rank": "rank of the adapter", "target_modules": "names of adapted layers",
    "load_in_4bit": "quantize the base model to 4 bits", "bf16": "compute in bfloat16",
    "early_stopping_patience": "evaluations without gain to stop after",
    "seed": "of weights, dropout and order",
    "report_to": "tensorboard, wandb, trackio, ...", "push_to_hub": "upload the adapter after training",
    "dry_run": "show and check everything, and stop", "overwrite": "replace another run in --output_dir",
    "balance_classes": "weigh rare classes more", "image_column": "column with images or paths",
    "skip_unreadable": "leave out images that cannot be read", "image_model": "instead of --model: tower of the images",
    "text_model": "instead of --model: tower of the texts", "second_text_column": "for pairs of texts: the second ones",
    "loss": "contrastive or sigmoid", "temperature": "the temperature, or its start",
    "swap": "features exchanged now and then",
    "schedule": "of the temperature",
}  # fmt: skip
# Options that a command cannot do without; the training commands have their own.
_REQUIRED = {
    "predict": ("run", "data"), "complete": ("data",), "convert": ("adapter",), "merge": ("adapter", "output_dir"),
    "inspect": ("adapter",), "serve-check": ("adapter",), "push": ("run",),
}  # fmt: skip
_OF_TRAINING = ("model", "dataset")


class HelpFormatter(argparse.HelpFormatter):
    """Each option by one name, with its default where it has one; descriptions wrapped, examples kept to be copied."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_NAME, width=WIDTH)

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        super().add_arguments(sorted(actions, key=lambda action: not is_required(action, self._prog)))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return wrapped(text)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[0]
        if action.nargs == 0 or _is_switch(action):
            return name
        several = " ..." if action.nargs in ("+", "*") else ""
        listed = action.choices and len(", ".join(map(str, action.choices))) < WIDTH // 2
        return f"{name} {self._metavar_formatter(action, _kind(action))(1)[0] if listed else _kind(action)}{several}"

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = f" (default: {_default(action)})" if _has_default(action) else ""
        required = "Required. " if is_required(action, self._prog) else ""
        text = f"{required}{action.help or ''}{shown}"
        return text.replace("%%", "%").replace("%", "%%")  # transformers escapes it in some


def is_required(action: argparse.Action, program: str) -> bool:
    """Tell whether a command, the last word of `program`, cannot do without an option."""
    return action.dest in _REQUIRED.get(program.split()[-1], _OF_TRAINING) and action.default is None


def wrapped(text: str) -> str:
    """Wrap paragraphs; examples, which begin with two spaces, are broken before an option with a backslash.

    >>> print(wrapped("  deep-lora x --long_name " + "y" * 40 + " --z 1 --w 2"))
      deep-lora x --long_name yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy --z 1 \\
          --w 2
    """
    lines: list[str] = []
    paragraph: list[str] = []
    for line in [*text.replace(_CONTINUED, "").splitlines(), ""]:
        if line.strip() and not line.startswith("  "):
            paragraph.append(line)
            continue
        lines += textwrap.wrap(" ".join(paragraph), WIDTH - 1, break_on_hyphens=False)
        paragraph = []
        lines += _example(line) if line.strip() else [""]
    return "\n".join(lines).rstrip()


def _example(line: str) -> list[str]:
    found, current = [], ""
    for number, part in enumerate(line.split(" --")):
        word = part if number == 0 else f" --{part}"
        if current and len(current) + len(word) + 2 >= WIDTH:
            found.append(f"{current} \\")
            current = "     "
        current += word
    return [*found, current]


def common_help(parser: argparse.ArgumentParser, description: str, names: Sequence[str]) -> str:
    """Return one screen: the usage, what the command does, two examples, and a line for each common option."""
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    count = len(actions) - 1
    lines = [parser.format_usage().rstrip(), "", wrapped(_beginning(description)), "", "common options:"]
    lines += [_line(actions[name], parser.prog) for name in names if name in actions]
    lines += [_named("config", "options in a YAML or JSON file"),
              _named("help_all", f"more about the command, and all {count} options")]  # fmt: skip
    return "\n".join(lines)


def _beginning(description: str) -> str:
    """Return the first paragraph of a description, and the first two of its examples."""
    text, examples, *_ = description.split("\n\n")
    lines = examples.replace(_CONTINUED, "").splitlines()
    return "\n".join([text, "", *lines[:2]])


def _line(action: argparse.Action, program: str) -> str:
    """Return the name of an option, and its help in a few words."""
    required = "required. " if is_required(action, program) else ""
    default = f" [{_default(action)}]" if _has_default(action) else ""
    return _named(action.dest, f"{required}{SHORT.get(action.dest, str(action.help))}{default}")


def _named(name: str, text: str) -> str:
    parts = textwrap.wrap(text, WIDTH - 1 - _COMMON_NAME)
    return f"  {f'--{name}':<{_COMMON_NAME - 2}}" + f"\n{'':<{_COMMON_NAME}}".join(parts)


def _is_switch(action: argparse.Action) -> bool:
    return action.nargs == "?" and isinstance(action.default, bool)


def _has_default(action: argparse.Action) -> bool:
    nothing: tuple[Any, ...] = (None, False, argparse.SUPPRESS, "", [], ["none"], -1)
    return action.default not in nothing and not isinstance(action.default, dict)


def _default(action: argparse.Action) -> str:
    default = action.default
    return " ".join(map(str, default)) if isinstance(default, list) else str(getattr(default, "value", default))


def _kind(action: argparse.Action) -> str:
    kinds: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}
    return kinds.get(action.type, "VALUE")
