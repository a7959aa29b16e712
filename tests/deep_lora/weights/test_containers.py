"""Names of adapters that torch's own containers refuse."""

import pytest
import torch
from peft import PeftModel
from torch import nn

from deep_lora import DeepLoraConfig
from tests.models import LAYER_CASES, adapt, disturb_


@pytest.mark.parametrize("name", ["copy", "get", "setdefault", "fromkeys", "popitem"])
@pytest.mark.parametrize("case", ["linear", "embedding", "conv2d", "experts"])
def test_an_adapter_called_like_a_method_is_made_saved_loaded_combined_and_deleted(case, name, tmp_path) -> None:
    base, x, settings = LAYER_CASES[case]
    torch.manual_seed(0)
    model = adapt(base(), name, r=2, **settings)
    disturb_(model)
    wanted = model(x)
    model.save_pretrained(str(tmp_path))
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(base(), str(tmp_path / name), adapter_name=name).eval()
    assert torch.equal(loaded(x), wanted)
    if case != "experts":
        loaded.add_weighted_adapter([name], [1.0], "update_of_" + name)
        loaded.set_adapter("update_of_" + name)
        assert torch.allclose(loaded(x), wanted, rtol=0, atol=1e3 * torch.finfo(torch.float32).eps)
    loaded.delete_adapter(name)
    assert name not in loaded.peft_config


@pytest.mark.parametrize("name", ["keys", "update", "training", "forward", "a.b"])
def test_names_that_no_container_takes_are_refused_and_leave_the_model_as_it_was(name: str) -> None:
    model = adapt(nn.Sequential(nn.Linear(6, 6)), "first", r=2, target_modules=["0"])
    before = list(model.state_dict())
    reason = "a name must not be empty, must have no dot, and must not be that of an attribute of `torch.nn.ModuleDict`"
    with pytest.raises(ValueError, match=f"an adapter cannot be called {name!r}: {reason}; choose another name"):
        adapt(nn.Sequential(nn.Linear(6, 6)), name, r=2, target_modules=["0"])
    with pytest.raises(ValueError, match="choose another name"):
        model.add_adapter(name, DeepLoraConfig(r=2, target_modules=["0"]))
    with pytest.raises(ValueError, match="choose another name"):
        model.add_weighted_adapter(["first"], [1.0], name)
    assert list(model.state_dict()) == before
