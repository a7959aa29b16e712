"""Dataclasses as command lines, also read from a YAML or JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from training.errors import UsageError
from training.settings.files import read_settings
from training.settings.help import HelpFormatter, common_help
from training.settings.unused import refuse_unused

_NO = ("eval_strategy", "save_strategy", "logging_strategy")  # whose `no` is False for YAML
# What people type for an option, and would find none or another one.
_MEANT = {
    "lr": "learning_rate", "learningrate": "learning_rate", "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs", "n_epochs": "num_train_epochs", "epoch": "num_train_epochs",
    "steps": "max_steps", "num_steps": "max_steps", "batch_size": "per_device_train_batch_size",
    "bs": "per_device_train_batch_size", "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size", "accumulation_steps": "gradient_accumulation_steps",
    "grad_accum": "gradient_accumulation_steps", "max_len": "max_length", "max_seq_length": "max_length",
    "max_seq_len": "max_length", "seq_length": "max_length", "block_size": "max_length", "cutoff_len": "max_length",
    "r": "rank", "lora_r": "rank", "lora_rank": "rank", "alpha": "lora_alpha", "dropout": "adapter_dropout",
    "lora_dropout": "adapter_dropout", "model_name": "model", "model_name_or_path": "model", "base_model": "model",
    "model_path": "model", "tokenizer_name": "model", "data": "dataset", "data_path": "dataset",
    "dataset_name": "dataset", "train_file": "dataset", "data_dir": "dataset", "train_data": "dataset",
    "validation_file": "validation_data", "eval_file": "validation_data", "eval_data": "validation_data",
    "val_data": "validation_data", "test_file": "test_data", "val_split": "validation_split",
    "val_fraction": "validation_fraction", "test_size": "validation_fraction",
    "dataset_config_name": "dataset_config", "subset": "dataset_config", "output": "output_dir", "out": "output_dir",
    "out_dir": "output_dir", "save_dir": "output_dir", "text_field": "text_column", "text_col": "text_column",
    "label": "label_column", "labels": "label_column", "label_col": "label_column", "target": "target_column",
    "warmup": "warmup_steps", "warmup_ratio": "warmup_steps", "wd": "weight_decay", "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type", "optimizer": "optim", "resume": "resume_from_checkpoint",
    "metric": "metrics", "early_stopping": "early_stopping_patience", "cpu": "use_cpu", "no_cuda": "use_cpu",
    "device": "use_cpu", "load_in_4_bit": "load_in_4bit", "4bit": "load_in_4bit", "8bit": "load_in_8bit",
    "sep": "separator", "delimiter": "separator", "names": "column_names", "config_file": "config",
    "gradient_accumulation": "gradient_accumulation_steps", "user_column": "row_column",
    "item_column": "column_column", "rating_column": "value_column", "image_col": "image_column",
    "quantization": "load_in_4bit",
}  # fmt: skip


def option(default: Any, text: str) -> Any:
    """Return a field with its help."""
    return field(default=default, metadata={"help": text})


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
    common: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """Make an instance of each dataclass from `[--config FILE] [--name value ...]`; the command line wins.

    Args:
        types: dataclasses whose fields are the options; names must differ.
        words: the command line without the program and command.
        command: name of the command, for the help.
        common: options that `--help` shows; `--help_all` shows all. None shows all.

    Raises:
        UsageError: for a file that cannot be read, an unknown option, or a value that does not fit.
    """
    parser = build_parser(types, command, description)
    words = list(words)
    if "--help_all" in words or "--help-all" in words:
        parser.print_help()
        parser.exit(0)
    if common is not None and ("-h" in words or "--help" in words):
        print(common_help(parser, description, common))
        parser.exit(0)
    words = with_config_file(words, option_names(types))
    try:
        *found, rest = parser.parse_args_into_dataclasses(
            args=words, look_for_args_file=False, return_remaining_strings=True
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error
    if rest:
        raise UsageError(_unknown(rest[0].partition("=")[0], parser))
    refuse_unused(passed(words), found)
    return tuple(found)


def passed(words: Sequence[str]) -> set[str]:
    """Return the names of the options among the words."""
    return {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}


def refuse_commas(name: str, words: Sequence[str] | None) -> None:
    """Raise if one word of an option holds several names.

    Raises:
        UsageError: the text has them as they should be written.
    """
    for word in words or ():
        if re.fullmatch(r"[\w.]+(, *[\w.]+)+,?", word):
            several = " ".join(part.strip() for part in word.split(",") if part)
            raise UsageError(f"--{name} got {word!r}; separate names by spaces: --{name} {several}")


def option_names(types: Sequence[type]) -> set[str]:
    """Return the names of all options."""
    return {entry.name for kind in types for entry in dataclasses.fields(kind) if entry.init}


def build_parser(types: Sequence[type], command: str, description: str) -> Parser:
    """Return the parser of a command, with the options in groups by dataclass."""
    return Parser(
        types,
        prog=f"deep-lora {command}",
        description=description,
        usage=f"deep-lora {command} [--config settings.yaml] [--name value ...]",
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
    if words.count("--config") > 1:
        raise UsageError("--config was passed twice; put all settings in one file")
    position = words.index("--config")
    if position + 1 == len(words):
        raise UsageError("--config needs the name of a YAML or JSON file")
    path = Path(words[position + 1])
    return settings_as_words(read_settings(path), known, str(path)) + words[:position] + words[position + 2 :]


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
        meant = _MEANT.get(unknown[0].replace("-", "_").lower())
        close = [meant] if meant in known else difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"{source} names unknown options {unknown}{hint}")
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, (list, tuple)):
            words += [f"--{name}", *map(_word, value)]
        elif value is not None:
            words.append(f"--{name}={'no' if value is False and name in _NO else _word(value)}")
    return words


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(getattr(value, "value", value))


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    if not word.startswith("-"):
        return f"{word!r} belongs to no option: the one before it takes fewer values; each option begins with --"
    options = [option for action in parser._actions for option in action.option_strings]
    meant = f"--{_MEANT.get(word.lstrip('-').replace('-', '_').lower())}"
    if meant in options:
        return f"unknown option {word}; did you mean {meant}?"
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.75)
    hint = f"did you mean {close[0]}?" if close else "--help_all lists what there is"
    return f"unknown option {word}; {hint}"
