"""Adapters with a plain LoRA at the root: what loads LoRA loads them, and training finds the Deep LoRA in them."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from peft.utils import hotswap
from transformers import AutoModelForCausalLM

from deep_lora import DeepLoraConfig, convert_folder, inspect_adapter, put_lora_at_root, save_as_lora
from deep_lora.export.folders import read_adapter
from deep_lora.files import AdapterFileError
from deep_lora.trainable import trainable_folder, trainable_subfolder
from tests.models import Mixed, adapt, disturb_, ids, llama

FILES = ["adapter_config.json", "adapter_model.safetensors"]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids()).logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A base, a trained-looking adapter with a plain LoRA at its root, and what the model says with it."""
    folder = tmp_path_factory.mktemp("saved")
    llama().save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = adapt(base, r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    disturb_(model)
    model.save_pretrained(str(folder / "adapter"), lora_at_root=True)
    return folder, logits(model)


def base_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "base")


def test_the_root_is_a_lora_and_the_subfolder_what_was_trained(saved) -> None:
    folder, _ = saved
    adapter = folder / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == ["README.md", *FILES, "deep_lora"]
    assert sorted(path.name for path in (adapter / "deep_lora").iterdir()) == FILES
    kinds = [json.loads((place / FILES[0]).read_text())["peft_type"] for place in (adapter, adapter / "deep_lora")]
    assert kinds == ["LORA", "DEEP_LORA"]


@pytest.mark.parametrize("trainable", [False, True])
def test_every_way_of_loading_gives_the_same_logits_and_deep_lora_for_training(saved, trainable) -> None:
    folder, wanted = saved
    adapter, kind = str(folder / "adapter"), DeepLoraConfig if trainable else LoraConfig
    one = PeftModel.from_pretrained(base_of(folder), adapter, is_trainable=trainable)
    two = AutoPeftModelForCausalLM.from_pretrained(adapter, is_trainable=trainable)
    three = get_peft_model(base_of(folder), kind(target_modules=["k_proj"], task_type="CAUSAL_LM"))
    three.load_adapter(adapter, "other", is_trainable=trainable)
    three.set_adapter("other")
    four = base_of(folder)
    four.load_adapter(adapter, is_trainable=trainable)
    configs = [one.peft_config["default"], two.peft_config["default"], three.peft_config["other"]]
    assert [type(config) for config in [*configs, four.peft_config["default"]]] == [kind] * 4
    for model in (one, two, three, four):
        assert torch.allclose(logits(model), wanted, atol=1e-5)
    assert any(p.requires_grad for p in one.parameters()) == trainable


def test_an_adapter_that_is_there_takes_the_trainable_part_however_it_is_loaded(saved) -> None:
    folder, wanted = saved
    model = adapt(base_of(folder), r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model.load_adapter(str(folder / "adapter"), "default")
    assert torch.allclose(logits(model), wanted, atol=1e-6)
    beside = adapt(base_of(folder), r=4, target_modules=["k_proj"], task_type="CAUSAL_LM")
    beside.load_adapter(str(folder / "adapter"), "other")
    assert isinstance(beside.peft_config["other"], DeepLoraConfig)


def test_a_lora_that_is_there_takes_the_root_for_training_too(saved) -> None:
    folder, wanted = saved
    model = get_peft_model(base_of(folder), LoraConfig.from_pretrained(str(folder / "adapter")))
    model.load_adapter(str(folder / "adapter"), "default", is_trainable=True)
    assert torch.allclose(logits(model), wanted, atol=1e-5)


def test_hotswap_takes_the_trainable_part_into_a_deep_lora_adapter(saved) -> None:
    folder, wanted = saved
    model = adapt(base_of(folder), r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    hotswap.hotswap_adapter(model, str(folder / "adapter"), "default", torch_device="cpu")
    assert torch.allclose(logits(model), wanted, atol=1e-6)


def test_config_conversion_and_inspection_find_the_trainable_part(saved, tmp_path) -> None:
    folder, _ = saved
    adapter = folder / "adapter"
    assert DeepLoraConfig.from_pretrained(str(adapter)).r == 4
    assert inspect_adapter(adapter).peft_type == "DEEP_LORA"
    assert set(convert_folder(adapter, tmp_path / "again").values()) == {4}
    assert trainable_folder(adapter) == adapter / "deep_lora" and trainable_subfolder(adapter) == "deep_lora"


def test_a_folder_of_an_earlier_version_is_its_own_trainable_part(saved, tmp_path) -> None:
    folder, wanted = saved
    shutil.copytree(folder / "adapter" / "deep_lora", tmp_path / "old")
    assert trainable_folder(tmp_path / "old") == tmp_path / "old" and trainable_subfolder(tmp_path / "old") is None
    for trainable in (False, True):
        model = PeftModel.from_pretrained(base_of(folder), str(tmp_path / "old"), is_trainable=trainable)
        assert isinstance(model.peft_config["default"], DeepLoraConfig)
        assert torch.allclose(logits(model), wanted, atol=1e-6)


def test_a_plain_lora_without_a_trainable_part_stays_one_under_training(saved, tmp_path) -> None:
    folder, _ = saved
    for name in FILES:
        shutil.copy(folder / "adapter" / name, tmp_path)
    model = PeftModel.from_pretrained(base_of(folder), str(tmp_path), is_trainable=True)
    assert isinstance(model.peft_config["default"], LoraConfig)


def test_a_subfolder_or_config_that_is_named_wins(saved) -> None:
    folder, wanted = saved
    config = LoraConfig.from_pretrained(str(folder / "adapter"))
    model = PeftModel.from_pretrained(base_of(folder), str(folder / "adapter"), is_trainable=True, config=config)
    assert isinstance(model.peft_config["default"], LoraConfig)
    assert torch.allclose(logits(model), wanted, atol=1e-5)
    named = PeftModel.from_pretrained(base_of(folder), str(folder / "adapter"), subfolder="deep_lora")
    assert isinstance(named.peft_config["default"], DeepLoraConfig)


def test_a_repository_that_cannot_be_searched_is_told(saved, tmp_path) -> None:
    folder, _ = saved
    revision = tmp_path / "models--me--mine" / "snapshots" / "1"
    revision.mkdir(parents=True)
    (tmp_path / "models--me--mine" / "refs").mkdir()
    (tmp_path / "models--me--mine" / "refs" / "main").write_text("1")
    shutil.copy(folder / "adapter" / FILES[0], revision)
    with pytest.warns(UserWarning, match="the Hub cannot be reached, so me/mine was not searched for deep_lora/"):
        assert trainable_subfolder("me/mine", cache_dir=tmp_path) is None
    shutil.copytree(folder / "adapter" / "deep_lora", revision / "deep_lora")
    assert trainable_subfolder("me/mine", cache_dir=tmp_path) == "deep_lora"
    assert trainable_subfolder("not a name", cache_dir=tmp_path) is None


def test_named_adapters_have_folders_of_their_own_and_another_method_stays_as_it_is(tmp_path) -> None:
    model = adapt(Mixed(), r=4, target_modules=["square"])
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules=["tall"]))
    model.save_pretrained(str(tmp_path / "ours"), lora_at_root=True)
    assert (tmp_path / "ours" / "second" / "deep_lora" / FILES[1]).is_file()
    lora = get_peft_model(Mixed(), LoraConfig(r=2, target_modules=["square"]))
    lora.save_pretrained(str(tmp_path / "theirs"), lora_at_root=True)
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir()) == ["README.md", *FILES]


def test_saving_twice_replaces_both_parts(tmp_path) -> None:
    model = adapt(Mixed(), r=4, target_modules=["square"])
    model.save_pretrained(str(tmp_path), lora_at_root=True)
    disturb_(model)
    model.save_pretrained(str(tmp_path), lora_at_root=True)
    wanted = model.base_model.model.square.get_delta_weight("default")
    for trainable in (False, True):
        loaded = PeftModel.from_pretrained(Mixed(), str(tmp_path), is_trainable=trainable)
        assert torch.allclose(loaded.base_model.model.square.get_delta_weight("default"), wanted, atol=1e-6)


def test_a_lora_that_cannot_be_written_leaves_the_adapter_as_it_was(tmp_path) -> None:
    model = adapt(Mixed(), r=4, target_modules=["square"])
    model.save_pretrained(str(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(path) -> None:
        path.mkdir()
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        put_lora_at_root(tmp_path, full_disk)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_pickle_cannot_have_a_lora_at_its_root(tmp_path) -> None:
    model = adapt(Mixed(), r=4, target_modules=["square"])
    with pytest.raises(ValueError, match="writes safetensors; leave `safe_serialization=False` out"):
        model.save_pretrained(str(tmp_path), safe_serialization=False, lora_at_root=True)


def test_a_trainable_part_that_leads_out_of_its_folder_is_refused(saved, tmp_path) -> None:
    folder, _ = saved
    for name in FILES:
        shutil.copy(folder / "adapter" / name, tmp_path)
    os.symlink(folder / "adapter" / "deep_lora", tmp_path / "deep_lora")
    with pytest.raises(AdapterFileError, match="is a link that leads out of its folder"):
        read_adapter(tmp_path)


def test_path_and_model_come_in_either_order(tmp_path) -> None:
    model = adapt(Mixed(), r=4, target_modules=["square"])
    assert save_as_lora(model, tmp_path / "one") == save_as_lora(tmp_path / "two", model)
    assert [(tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in FILES]
    with pytest.raises(TypeError, match=r"needs a path and a model, got str and str; write save_as_lora"):
        save_as_lora("one", "two")


def test_a_lora_is_not_written_above_the_deep_lora_of_another(saved, tmp_path) -> None:
    folder, _ = saved
    shutil.copytree(folder / "adapter", tmp_path / "held")
    model = adapt(Mixed(), r=4, target_modules=["square"])
    message = (
        "held has a Deep LoRA adapter in its subfolder deep_lora, which would be trained further instead of this LoRA"
    )
    with pytest.raises(FileExistsError, match=message):
        save_as_lora(tmp_path / "held", model)
    with pytest.raises(FileExistsError, match=message):
        convert_folder(folder / "adapter", tmp_path / "held", overwrite=True)


@pytest.mark.parametrize("place", ["adapter", "base"])
def test_only_a_deep_lora_adapter_gives_its_root_to_a_lora(saved, place) -> None:
    folder, _ = saved
    before = {path: path.read_bytes() for path in (folder / place).rglob("*") if path.is_file()}
    with pytest.raises(AdapterFileError, match="has no Deep LoRA adapter at its root; give a folder that"):
        put_lora_at_root(folder / place, lambda path: shutil.copytree(folder / "adapter", path))
    assert {path: path.read_bytes() for path in (folder / place).rglob("*") if path.is_file()} == before
