"""Options of the command line that are made of `DeepLoraConfig`."""

from __future__ import annotations

import dataclasses

import deep_lora
from training.settings.adapter import HELPS, OPTIONS, AdapterArguments
from training.settings.parsing import build_parser


def test_options_have_the_help_and_the_defaults_of_the_config() -> None:
    fields = {entry.name: entry for entry in dataclasses.fields(deep_lora.DeepLoraConfig)}
    helps = {action.dest: action.help for action in build_parser((AdapterArguments,), "finetune", "")._actions}
    arguments = AdapterArguments()
    for name, option in OPTIONS.items():
        assert helps[option] == HELPS.get(option, fields[name].metadata["help"])
        assert getattr(arguments, option) == (["all-linear"] if name == "target_modules" else fields[name].default)
