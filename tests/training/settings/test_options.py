"""Options of the command line that are made of `DeepLoraConfig` and of `create_optimizer`."""

from __future__ import annotations

import dataclasses
import inspect

import deep_lora
from training.settings.adapter import HELPS, KNOBS, OPTIONS, AdapterArguments
from training.settings.parsing import build_parser


def test_options_have_the_help_and_the_defaults_of_the_config() -> None:
    fields = {entry.name: entry for entry in dataclasses.fields(deep_lora.DeepLoraConfig)}
    helps = {action.dest: action.help for action in build_parser((AdapterArguments,), "finetune", "")._actions}
    arguments = AdapterArguments()
    for name, option in OPTIONS.items():
        assert helps[option] == HELPS.get(option, fields[name].metadata["help"])
        assert getattr(arguments, option) == (["all-linear"] if name == "target_modules" else fields[name].default)


def test_knobs_are_keywords_of_the_optimizer_and_unset_by_default() -> None:
    keywords = inspect.signature(deep_lora.parameter_groups).parameters | (
        inspect.signature(deep_lora.create_optimizer).parameters
    )
    assert KNOBS and set(KNOBS.values()) <= set(keywords)
    assert AdapterArguments().knobs() == []
    (knob,) = AdapterArguments(other_learning_rate=0.5).knobs()
    assert (knob.option, knob.keyword, knob.value) == ("other_learning_rate", "other_lr", 0.5)
