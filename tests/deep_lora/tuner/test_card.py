"""A saved or pushed adapter says how it is loaded; other methods' cards stay PEFT's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn

from deep_lora import DeepLoraConfig
from deep_lora.tuner import card, layout
from deep_lora.tuner.card import HEADING, write_card
from tests.models import Pixels, adapt, llama


def adapted(config) -> PeftModel:
    return get_peft_model(nn.Sequential(nn.Linear(4, 4)), config)


def deep() -> PeftModel:
    return adapted(DeepLoraConfig(r=2, target_modules=["0"]))


def test_the_card_of_a_saved_adapter_shows_the_import_and_the_export_once(tmp_path) -> None:
    model = deep()
    for _ in range(2):
        model.save_pretrained(str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert text.count(HEADING) == 1 and "More Information Needed" not in text
    assert "import deep_lora" in text and "save_as_lora" in text and "PeftModel.from_pretrained" in text
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "peft" and {"deep-lora", "lora", "peft"} <= set(data.tags)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".safetensors"]


def test_the_card_of_a_plain_root_needs_no_import_but_for_training_on(tmp_path) -> None:
    model = adapt(llama(), r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# My own words\n")
    model.save_pretrained(str(tmp_path), lora_at_root=True)
    text = (tmp_path / "README.md").read_text()
    used, trained = text.split("is in `deep_lora`")
    assert "import deep_lora" not in used and f'AutoPeftModelForCausalLM.from_pretrained("{tmp_path.name}")' in used
    assert "import deep_lora" in trained and "is_trainable=True" in trained
    assert "# My own words" in text and ModelCard.load(tmp_path / "README.md").data.license == "mit"


def test_the_card_of_another_method_is_not_touched(tmp_path) -> None:
    adapted(LoraConfig(r=2, target_modules=["0"])).save_pretrained(str(tmp_path))
    assert "deep_lora" not in (tmp_path / "README.md").read_text()


def test_installing_twice_wraps_once() -> None:
    names = ("create_or_update_model_card", "_upload_modified_files", "from_pretrained", "load_adapter")
    before = [vars(PeftModel)[name] for name in names]
    card.install()
    layout.install()
    assert [vars(PeftModel)[name] for name in names] == before


def test_a_card_is_made_for_a_folder_without_one(tmp_path) -> None:
    write_card(tmp_path, source="me/mine")
    text = (tmp_path / "README.md").read_text()
    assert "# mine" in text and '.from_pretrained("me/mine")' in text


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
    fresh = "---\nlibrary_name: transformers\n---\na fresh card of transformers" + 9 * "\n[More Information Needed]"
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *a, **k: ModelCard(fresh))
    return uploaded


def test_a_pushed_adapter_is_a_plain_lora_that_carries_deep_lora_and_the_card_with_its_own_name(hub, tmp_path) -> None:
    model = deep()
    torch.nn.init.normal_(model.base_model.model[0].deep_lora_core["default"])
    assert model.push_to_hub("me/mine") == "commit"
    files = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(hub) == {"README.md", *files, *(f"deep_lora/{name}" for name in files)}
    text = hub["README.md"].decode()
    assert text.count(HEADING) == 1 and 'from_pretrained(base_model, "me/mine")' in text and "More Info" not in text
    assert "# mine\n" in text
    (tmp_path / "deep_lora").mkdir()
    for name, content in hub.items():
        (tmp_path / name).write_bytes(content)
    assert PeftConfig.from_pretrained(str(tmp_path)).peft_type == "LORA"
    pulled = PeftModel.from_pretrained(model.unload(), str(tmp_path), is_trainable=True)
    core = pulled.base_model.model[0].deep_lora_core["default"]
    assert core.abs().max() > 0.1  # what was pushed is what comes back, not a fresh start


def test_what_lora_cannot_hold_is_pushed_as_deep_lora_with_a_warning(hub) -> None:
    model = adapt(Pixels(groups=2, dilation=1), r=4, target_modules=["first", "grouped"])
    with pytest.warns(UserWarning, match="me/mine gets Deep LoRA at its root, without a plain LoRA: module"):
        model.push_to_hub("me/mine")
    assert set(hub) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert b"import deep_lora" in hub["README.md"]
