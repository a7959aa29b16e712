"""Saved adapters that are damaged or do not fit are refused, and the model stays as it was."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from deep_lora import AdapterFileError, convert_folder, inspect_adapter
from tests.models import Mixed, adapt


def _truncated(file) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def _corrupt(file) -> None:
    file.write_bytes(b"\xff" * 64)


def _incomplete(file) -> None:
    save_file({key: t for key, t in load_file(file).items() if "deep_lora_V" not in key}, file)


def _other_rank(file) -> None:
    save_file({key: t[..., :1].contiguous() if "_U" in key else t for key, t in load_file(file).items()}, file)


@pytest.mark.parametrize(
    "damage,text",
    [
        (
            _truncated,
            "is not a usable safetensors file .*If it is truncated or corrupt, copy or download it again",
        ),
        (_corrupt, "is not a usable safetensors file .*the model was not changed"),
        (_incomplete, "has no deep_lora_V for module .*the adapter is incomplete. Save it again"),
        (_other_rank, r"holds tensors of different ranks for module .*expected U \(out, r\), core \(n, r, r\)"),
    ],
)
def test_a_damaged_file_is_refused_and_the_model_stays_as_it_was(damage, text: str, tmp_path) -> None:
    model = Mixed()
    adapt(copy.deepcopy(model), r=2, target_modules=["square"]).save_pretrained(str(tmp_path))
    damage(tmp_path / "adapter_model.safetensors")
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=text):
        PeftModel.from_pretrained(model, str(tmp_path))
    assert [name for name, _ in model.named_modules()] == names


def test_a_corrupt_config_and_a_missing_file_are_refused(tmp_path) -> None:
    adapt(Mixed(), r=2, target_modules=["square"]).save_pretrained(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises((ValueError, OSError), match="adapter_model|Can't find|Repo id must be"):
        PeftModel.from_pretrained(Mixed(), str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{not json")
    with pytest.raises(ValueError):
        PeftConfig.from_pretrained(str(tmp_path))


def test_an_adapter_of_other_shapes_is_refused(tmp_path) -> None:
    adapt(nn.Sequential(nn.Linear(6, 6)), r=2, target_modules=["0"]).save_pretrained(str(tmp_path))
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(nn.Sequential(nn.Linear(8, 6)), str(tmp_path))


def test_metadata_that_is_not_text_is_refused_before_the_model_changes(tmp_path: Path) -> None:
    model = adapt(nn.Sequential(nn.Linear(4, 3)), r=2, target_modules=["0"])
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": {"format": 1}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    base = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="the metadata in the header of .* must map names to texts"):
        PeftModel.from_pretrained(base, str(tmp_path))
    assert type(base[0]) is nn.Linear


def _bounded(file) -> None:
    tensors = load_file(file)
    bounds = {key.replace("_U", "_bound"): torch.ones(1, 1) for key in tensors if key.endswith("deep_lora_U")}
    save_file(tensors | bounds, file)
    config = file.with_name("adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_update_norm": 0.4}))


BOUNDED = (
    r"holds '.*square\.deep_lora_bound.*', a bound on an update \(`max_update_norm`\), which this version of deep_lora "
    "cannot compute; export the adapter with `save_as_lora` of the version that saved it, or train it again"
)


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning")
def test_an_adapter_of_an_earlier_version_that_bounded_its_updates_is_refused(tmp_path) -> None:
    base = Mixed()
    adapt(copy.deepcopy(base), r=2, target_modules=["square"]).save_pretrained(str(tmp_path))
    _bounded(tmp_path / "adapter_model.safetensors")
    for load in (
        lambda: PeftModel.from_pretrained(base, str(tmp_path)),
        lambda: convert_folder(tmp_path, None, assume_linear=True),
        lambda: inspect_adapter(tmp_path, assume_linear=True),
    ):
        with pytest.raises(AdapterFileError, match=BOUNDED):
            load()
    assert type(base.square) is nn.Linear


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_the_tensors_of_such_an_adapter_are_refused_too(low_cpu_mem_usage: bool, tmp_path) -> None:
    model = adapt(Mixed(), r=2, target_modules=["square"])
    model.save_pretrained(str(tmp_path))
    _bounded(tmp_path / "adapter_model.safetensors")
    state = load_file(tmp_path / "adapter_model.safetensors")  # as from the Hub, whose files nobody has checked
    with pytest.raises(AdapterFileError, match=f"the adapter {BOUNDED}"):
        set_peft_model_state_dict(model, state, low_cpu_mem_usage=low_cpu_mem_usage)
    named = {f"{name}.default" if "deep_lora" in name else name: tensor for name, tensor in state.items()}
    with pytest.raises(AdapterFileError, match=f"the adapter {BOUNDED}"):
        model.load_state_dict(named, strict=False)
