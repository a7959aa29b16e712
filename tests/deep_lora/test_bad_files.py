"""Saved adapters that are damaged or do not fit are refused, and the model stays as it was."""

import copy
import json
from pathlib import Path

import pytest
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

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
            "is not a safetensors file that can be used .*If it is truncated or corrupt, copy or download it again",
        ),
        (_corrupt, "is not a safetensors file that can be used .*the model was not changed"),
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
