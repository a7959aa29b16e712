"""All linear layers, without those in which an adapter has no place or no effect."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from deep_lora import DeepLoraConfig, adapted_layers
from tests.models import VOCABULARY, Mixed, Nest, Pixels, adapt, adapter_tensors, disturb_, ids, llama


class Torch(nn.Module):
    """torch's own attention, and a layer around it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.attention(x, x, x)[0]


def adapted(model: nn.Module) -> set[str]:
    found = {name.partition(".deep_lora_")[0] for name, _ in adapter_tensors(model).items()}
    return {name.removeprefix("base_model.model.") for name in found}


def mamba() -> hf.MambaForCausalLM:
    return hf.MambaForCausalLM(hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, state_size=4))


def test_all_linear_is_the_default_and_what_null_means(tmp_path: Path) -> None:
    assert DeepLoraConfig().target_modules == DeepLoraConfig(target_modules=None).target_modules == "all-linear"
    DeepLoraConfig().save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": None}))
    assert PeftConfig.from_pretrained(str(tmp_path)).target_modules == "all-linear"
    assert adapted(adapt(Mixed(), r=2)) == {"square", "tall", "wide", "head"}  # a plain module has no known head


def test_a_saved_adapter_names_its_layers(tmp_path: Path) -> None:
    model = adapt(Mixed(), r=2, exclude_modules=["head"])
    model.save_pretrained(str(tmp_path))
    assert sorted(PeftConfig.from_pretrained(str(tmp_path)).target_modules) == ["square", "tall", "wide"]


@pytest.mark.parametrize("targets", [{}, {"target_modules": "All-Linear"}])
def test_all_linear_layers_of_some_blocks(targets: dict, tmp_path: Path) -> None:
    """PEFT's own list of names would pass over `layers_to_transform`."""
    model = adapt(llama(), r=2, layers_to_transform=[1], **targets)
    disturb_(model)
    assert len(adapted(model)) == 7 and all(".layers.1." in name for name in adapted(model))
    assert adapted(adapt(llama(), r=2, layers_to_transform=[1], layers_pattern="layers")) == adapted(model)
    model.save_pretrained(str(tmp_path))
    base = llama()
    base.load_state_dict(model.unload().state_dict())
    again = PeftModel.from_pretrained(base, str(tmp_path))
    assert adapted(again) == {name for name in adapted(again) if ".layers.1." in name}
    assert len(adapted(again)) == 7


def test_layers_whose_weights_are_read_without_a_call_are_left_out() -> None:
    assert adapted(adapt(Torch(), r=2)) == {"up", "attention.out_proj"}  # read with its update
    assert {name.rpartition(".")[2] for name in adapted(adapt(mamba(), r=2))} == {"in_proj", "x_proj", "dt_proj"}


def test_layers_without_inputs_are_left_out() -> None:
    base = nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 4), nn.Linear(4, 4))
    model = adapt(base, r=2, init_weights=False)
    assert list(adapted_layers(model.base_model.model)) == ["0", "2"]


def test_bare_parameters_can_be_adapted_alone_or_with_all_linear_layers() -> None:
    model = Nest()
    model.linear = nn.Linear(5, 5)
    assert adapted(adapt(model, r=2, target_parameters=["moe.matrix"])) == {"linear", "moe"}
    assert adapted(adapt(Nest(), r=2, target_parameters=["moe.matrix"])) == {"moe"}
    both = adapt(Mixed(), r=2, target_parameters=["tall.weight"])
    assert adapted(both) == {"square", "tall", "wide", "head"}
    assert both.base_model.model.tall.parameter_name == "weight"
    assert adapted(adapt(Nest(), r=2, target_parameters=["moe.matrix"], target_modules=[])) == {"moe"}


def test_a_depth_for_a_layer_that_is_not_there_is_named_in_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match=r"depth_pattern keys did not match .*: \['narrow'\]"):
        model = adapt(Mixed(), r=2, depth_pattern={"narrow": 2, "sq.*": 5})
    assert len(model.base_model.model.square.deep_lora_core["default"]) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(Nest(), r=2, target_modules=[], target_parameters=["moe.matrix"], depth_pattern={"moe.matrix": 2})


def test_a_model_without_a_linear_layer_to_adapt_is_refused() -> None:
    convolutions = Pixels()
    convolutions.head = nn.Identity()
    with pytest.raises(ValueError, match="finds no linear layer to adapt in a Pixels; name the modules to adapt"):
        get_peft_model(convolutions, DeepLoraConfig())
    with pytest.raises(ValueError, match="finds no linear layer to adapt in a Mixed"):
        get_peft_model(Mixed(), DeepLoraConfig(exclude_modules=".*"))
    with pytest.raises(ValueError, match="finds no linear layer to adapt in a Mixed"):
        get_peft_model(Mixed(), DeepLoraConfig(layers_to_transform=0))


def test_adapted_layers_compute_what_they_say() -> None:
    model = adapt(llama(), r=2)
    before = model(ids()).logits
    disturb_(model)
    assert not torch.allclose(model(ids()).logits, before, atol=1e-4)
