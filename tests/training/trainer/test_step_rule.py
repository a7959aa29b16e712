"""Whether a run of the command trains by the step rule."""

from __future__ import annotations

import pytest
from peft import LoHaConfig, LoraConfig, get_peft_model
from torch import nn

from deep_lora import DeepLoraCallback, DeepLoraConfig
from training.errors import UsageError
from training.settings.adapter import AdapterArguments
from training.trainer.optimizer import path_of


def _model(config: object) -> nn.Module:
    return get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)  # type: ignore[arg-type]


def test_deep_lora_has_a_path_lora_has_one_if_it_is_asked_for_and_others_have_none() -> None:
    deep, lora = _model(DeepLoraConfig(target_modules=["0"])), _model(LoraConfig(target_modules=["0"]))
    usual = DeepLoraCallback().path
    assert path_of(AdapterArguments(), deep) == usual and path_of(AdapterArguments(path_length=0), deep) == 0
    assert path_of(AdapterArguments(), lora) == 0 and path_of(AdapterArguments(path_length=0.2), lora) == 0.2
    other = _model(LoHaConfig(target_modules=["0"]))
    assert path_of(AdapterArguments(), other) == 0
    with pytest.raises(UsageError, match="--path_length goes with deep_lora and lora; leave it out for another method"):
        path_of(AdapterArguments(path_length=0.2), other)


def test_sharding_that_flattens_factors_is_refused(monkeypatch) -> None:
    model = _model(DeepLoraConfig(target_modules=["0"]))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match="an optimizer under DeepSpeed sees flattened pieces; use DDP or FSDP 2"):
        path_of(AdapterArguments(), model)
    assert path_of(AdapterArguments(path_length=0), model) == 0
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert path_of(AdapterArguments(), model) > 0
