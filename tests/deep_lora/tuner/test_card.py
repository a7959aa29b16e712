"""A saved or pushed adapter says how it is loaded; other methods' cards stay PEFT's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from deep_lora import DeepLoraConfig
from deep_lora.tuner.card import HEADING, add_loading_section, install


def adapted(config) -> PeftModel:
    return get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)


def deep() -> PeftModel:
    return adapted(DeepLoraConfig(r=2, target_modules=["0"]))


def test_the_card_of_a_saved_adapter_shows_the_import_and_the_export_once(tmp_path) -> None:
    model = deep()
    for _ in range(2):
        model.save_pretrained(str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert text.count(HEADING) == 1
    assert "import deep_lora" in text and "save_as_lora" in text and "PeftModel.from_pretrained" in text
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "peft"  # PEFT's own part is still read
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".safetensors"]


def test_the_card_of_another_method_is_not_touched(tmp_path) -> None:
    adapted(LoraConfig(r=2, target_modules=["0"])).save_pretrained(str(tmp_path))
    assert "deep_lora" not in (tmp_path / "README.md").read_text()


def test_installing_twice_wraps_once() -> None:
    before = PeftModel.create_or_update_model_card, PeftModel._upload_modified_files
    install()
    assert (PeftModel.create_or_update_model_card, PeftModel._upload_modified_files) == before


def test_a_section_is_added_to_a_folder_without_a_card(tmp_path) -> None:
    add_loading_section(tmp_path, source="me/mine")
    assert (tmp_path / "README.md").read_text().startswith(HEADING)


@pytest.fixture
def hub(monkeypatch) -> dict[str, bytes]:
    """The Hub's interface as transformers calls it, recording what would be uploaded."""
    uploaded: dict[str, bytes] = {}

    def create_commit(*, operations, **kwargs) -> str:
        uploaded.update({op.path_in_repo: Path(op.path_or_fileobj).read_bytes() for op in operations})
        return "commit"

    api = SimpleNamespace(
        create_repo=lambda repo_id, **kwargs: SimpleNamespace(repo_id=repo_id), create_commit=create_commit
    )
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: api)
    fresh = "---\nlibrary_name: transformers\n---\na card that transformers makes anew"
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *a, **k: ModelCard(fresh))
    return uploaded


def test_a_pushed_adapter_carries_weights_config_and_the_card_with_its_own_name(hub, tmp_path) -> None:
    model = deep()
    torch.nn.init.normal_(model.base_model.model[0].deep_lora_core["default"])
    assert model.push_to_hub("me/mine") == "commit"
    assert set(hub) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    card = hub["README.md"].decode()
    assert card.count(HEADING) == 1 and 'from_pretrained(base_model, "me/mine")' in card
    for name, content in hub.items():
        (tmp_path / name).write_bytes(content)
    pulled = PeftModel.from_pretrained(model.unload(), str(tmp_path))
    core = pulled.base_model.model[0].deep_lora_core["default"]
    assert core.abs().max() > 0.1  # what was pushed is what comes back, not a fresh start
