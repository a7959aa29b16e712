"""How factors are stored: smaller at the default start, cores without it; earlier formats are as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from tests.models import adapt, bases_of, cores_of, disturb_, layers_of


@pytest.mark.parametrize("settings", [{}, {"core_scale": 2.0}, {"init_scale": 1e-3}, {"variant": "narrow"}], ids=str)
def test_only_the_default_start_is_stored_smaller_and_a_fresh_adapter_has_the_same_bases(settings: dict) -> None:
    (layer,) = layers_of(adapt(nn.Sequential(nn.Linear(6, 5)), r=2, target_modules=["0"], **settings))
    assert layer.outer_scale["default"] == (1.0 if settings else 8.0)
    if settings.get("variant") != "narrow":
        for basis in bases_of(layer):
            assert torch.allclose(basis.mT @ basis, torch.eye(2), atol=1e-6)


@pytest.mark.parametrize(("version", "outer"), [(1, 1.0), (2, 4.0), (3, 4.0), (4, 8.0)])
def test_an_adapter_of_an_earlier_format_computes_what_it_did(version: int, outer: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 5))
    model = adapt(base, r=2, target_modules=["0"], deep_lora_version=version)
    (layer,) = layers_of(model)
    assert torch.equal(cores_of(layer), layer.deep_lora_start["default"] * torch.eye(2).expand(3, 2, 2))
    disturb_(model)
    assert layer.outer_scale["default"] == outer
    (U, V), core = bases_of(layer), cores_of(layer)
    kappa = layer.core_scale["default"]
    assert kappa == pytest.approx(outer / (2 * 0.3**2) / 2)
    chain = (kappa * core[2]) @ (kappa * core[1]) @ (kappa * core[0])
    expected = U @ (chain - 0.3**3 * torch.eye(2)) @ V.mT
    model.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["deep_lora_version"] == version
    again = PeftModel.from_pretrained(nn.Sequential(nn.Linear(6, 5)), str(tmp_path))
    found = layers_of(again)[0].get_delta_weight("default")
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_cores_are_stored_as_differences_from_their_start(tmp_path: Path) -> None:
    """The same update as of the second format with the start added, from files too."""
    torch.manual_seed(0)
    model, before = (
        adapt(nn.Sequential(nn.Linear(6, 5)), r=2, target_modules=["0"], deep_lora_version=version)
        for version in (3, 2)
    )
    assert not layers_of(model)[0].deep_lora_core["default"].any()
    disturb_(model)
    state = model.state_dict()
    state["base_model.model.0.deep_lora_core.default"] = cores_of(layers_of(model)[0])
    before.load_state_dict({name: tensor for name, tensor in state.items() if "settings" not in name}, strict=False)
    expected = layers_of(before)[0].get_delta_weight("default")
    model.save_pretrained(str(tmp_path))
    for found in (model, PeftModel.from_pretrained(nn.Sequential(nn.Linear(6, 5)), str(tmp_path))):
        torch.testing.assert_close(layers_of(found)[0].get_delta_weight("default"), expected)
