"""The entry for PEFT's method comparison loads as what it says."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from peft import PeftConfig

from deep_lora import DeepLoraConfig
from tests.paths import ROOT

FOLDER = ROOT / "benchmarks" / "method_comparison" / "experiments"
ENTRIES = sorted(FOLDER.glob("*/*/adapter_config.json"))


def test_there_is_an_entry_where_the_comparison_looks_for_it() -> None:
    assert [path.parent.relative_to(FOLDER).as_posix() for path in ENTRIES] == ["deep_lora/llama-3.2-3B-rank32"]


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.parent.name)
def test_an_entry_loads_through_peft_with_every_field_it_names(path: Path) -> None:
    named = json.loads(path.read_text(encoding="utf8"))
    config = PeftConfig.from_pretrained(str(path.parent))
    assert isinstance(config, DeepLoraConfig)
    assert named.keys() <= {field.name for field in fields(DeepLoraConfig)}
    named["target_modules"] = set(named["target_modules"])
    assert {name: getattr(config, name) for name in named if name != "peft_type"} == {
        name: value for name, value in named.items() if name != "peft_type"
    }


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.parent.name)
def test_the_optimizer_takes_the_training_parameters(path: Path) -> None:
    parameters = json.loads((path.parent / "training_params.json").read_text(encoding="utf8"))
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], **parameters["optimizer_kwargs"])
    assert optimizer.defaults["eps"] == 1e-6
