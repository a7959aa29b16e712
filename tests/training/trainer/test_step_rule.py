"""Whether a run of the command trains by the step rule."""

from __future__ import annotations

import dataclasses

import pytest
from peft import LoHaConfig, LoraConfig, get_peft_model
from torch import nn

from deep_lora import DeepLoraConfig
from deep_lora.optimizer.paces import CLASSES, SCORES, SIMILARITIES, TOKENS
from training.errors import UsageError
from training.settings.adapter import AdapterArguments
from training.trainer.optimizer import is_ruled


def _model(config: object) -> nn.Module:
    return get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)  # type: ignore[arg-type]


def test_deep_lora_has_the_rule_lora_has_it_if_it_is_asked_for_and_others_have_none() -> None:
    deep, lora = _model(DeepLoraConfig(target_modules=["0"])), _model(LoraConfig(target_modules=["0"]))
    assert is_ruled(AdapterArguments(), deep) and not is_ruled(AdapterArguments(path_length=0), deep)
    assert not is_ruled(AdapterArguments(), lora) and is_ruled(AdapterArguments(path_length=0.2), lora)
    other = _model(LoHaConfig(target_modules=["0"]))
    assert not is_ruled(AdapterArguments(), other)
    with pytest.raises(
        UsageError, match="--path_length works only with deep_lora and lora; leave it out for other methods"
    ):
        is_ruled(AdapterArguments(path_length=0.2), other)


def test_the_help_names_the_rules_paths() -> None:
    told = next(field for field in dataclasses.fields(AdapterArguments) if field.name == "path_length").metadata["help"]
    assert SCORES.path == SIMILARITIES.path and CLASSES.path == TOKENS.path
    assert f"{CLASSES.path:g} to learn classes or tokens and {SCORES.path:g} for everything else" in told


def test_sharding_that_flattens_factors_is_refused(monkeypatch) -> None:
    model = _model(DeepLoraConfig(target_modules=["0"]))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match="an optimizer under DeepSpeed sees flattened pieces; use DDP or FSDP 2"):
        is_ruled(AdapterArguments(), model)
    assert not is_ruled(AdapterArguments(path_length=0), model)
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert is_ruled(AdapterArguments(), model)
