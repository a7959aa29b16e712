"""Adapters of Deep LoRA and LoRA in one model: refused with the way to get there, which leads there."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftMixedModel, PeftModel, get_peft_model

from deep_lora import DeepLoraConfig, save_as_lora
from tests.models import LINEAR, Mixed, adapt, disturb_, ids

HINT = "To combine a Deep LoRA adapter with LoRA adapters, export it with"


def test_every_way_to_mix_them_says_how(tmp_path: Path) -> None:
    own, lora = DeepLoraConfig(r=2, target_modules=LINEAR), LoraConfig(r=2, target_modules=LINEAR)
    with pytest.raises(ValueError, match=HINT):
        get_peft_model(Mixed(), own).add_adapter("other", lora)
    with pytest.raises(ValueError, match=HINT):
        get_peft_model(Mixed(), lora).add_adapter("other", own)
    with pytest.raises(ValueError, match=HINT):
        get_peft_model(Mixed(), own, mixed=True)
    with pytest.raises(ValueError, match=HINT):
        get_peft_model(Mixed(), lora, mixed=True).add_adapter("other", own)
    get_peft_model(Mixed(), lora).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=HINT):
        get_peft_model(Mixed(), own).load_adapter(tmp_path, "other")


def test_errors_about_other_methods_are_pefts_own() -> None:
    with pytest.raises(ValueError) as caught:
        get_peft_model(Mixed(), LoraConfig(target_modules=LINEAR)).add_adapter("b", LoHaConfig(target_modules=LINEAR))
    assert HINT not in str(caught.value)


@pytest.mark.parametrize("kind", [PeftModel, PeftMixedModel])
def test_the_way_leads_to_both_in_one_model(kind: type, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Mixed().eval()
    own = adapt(copy.deepcopy(base), r=2, target_modules=LINEAR)
    disturb_(own)
    save_as_lora(tmp_path / "own", own)
    lora = get_peft_model(
        copy.deepcopy(base), LoraConfig(r=3, target_modules=LINEAR, init_lora_weights=False)
    ).eval()  # fmt: skip
    lora.save_pretrained(tmp_path / "lora")
    both = kind.from_pretrained(copy.deepcopy(base), tmp_path / "own").eval()
    both.load_adapter(tmp_path / "lora", "lora")
    both.base_model.set_adapter(["default", "lora"])
    wanted = copy.deepcopy(lora).merge_and_unload()
    for name in LINEAR:
        update = own.base_model.model.get_submodule(name).get_delta_weight("default")
        wanted.get_submodule(name).weight.data += update
    torch.testing.assert_close(both(ids()), wanted(ids()), atol=1e-5, rtol=1e-4)
