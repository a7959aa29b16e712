"""`inspect` and `convert` find the adapted layers in the base, whatever class and file of it the adapter comes from."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from peft.utils import CONFIG_NAME as CONFIG
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from deep_lora import DeepLoraConfig, inspect_adapter
from tests.models import disturb_
from training.cli import main
from training.results import exporting


def with_config(folder: Path, **fields) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def alone(run: Path, folder: Path) -> Path:
    """The plain LoRA of a run in a folder of its own, without the Deep LoRA that it comes with."""
    for name in (CONFIG, WEIGHTS):
        shutil.copy(run / "adapter" / name, folder)
    return folder


def converted(folder: Path, *words: str) -> int:
    return main(["convert", "--adapter", str(folder), "--dry_run", *words])


def save(kind: type, base: Path, folder: Path, targets: list[str], **settings) -> PeftModel:
    """A trained-looking adapter in a model of a class of transformers."""
    torch.manual_seed(3)
    model = get_peft_model(kind.from_pretrained(base), DeepLoraConfig(r=4, target_modules=targets, **settings)).eval()
    disturb_(model)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def classified(vit, finetune, tmp_path):
    """The folder of a run of `classify` on a base that was saved without a head."""
    generator = random.Random(0)
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200)), ("green", (30, 200, 30))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(8):
            shade = tuple(value + generator.randrange(40) for value in color)
            Image.new("RGB", (20, 20), shade).save(tmp_path / "pictures" / name / f"{number}.png")
    assert finetune(vit, tmp_path / "pictures", "--learning_rate", "1e-1", command="classify")[0] == 0
    return tmp_path / "run"


def test_an_adapter_that_classify_made_is_inspected(classified, tmp_path, capsys) -> None:
    assert main(["inspect", "--adapter", str(classified / "adapter")]) == 0
    assert "12 modules, mean effective rank" in capsys.readouterr().out
    reports = {one.module: one for one in inspect_adapter(classified / "adapter").modules}
    plain = {one.module: one for one in inspect_adapter(alone(classified, tmp_path)).modules}
    assert reports.keys() == plain.keys() and all(name.startswith("vit.") for name in reports)
    for name, one in plain.items():
        assert one.singular_values == pytest.approx(reports[name].singular_values, rel=1e-4, abs=1e-7)


def test_an_adapter_that_classify_made_is_converted_and_predicts_the_same(classified, vit, tmp_path, capsys) -> None:
    words = ["convert", "--adapter", str(classified / "adapter"), "--output_dir", str(tmp_path / "lora")]
    assert main(words) == 0 and "12 modules, largest rank 2" in capsys.readouterr().out
    pixels = torch.randn(4, 3, 16, 16)
    logits = []
    for folder in (classified / "adapter", tmp_path / "lora", None):
        model = AutoModelForImageClassification.from_pretrained(vit, num_labels=3)
        logits.append((PeftModel.from_pretrained(model, folder) if folder else model).eval()(pixels).logits)
    assert torch.allclose(logits[0], logits[1], atol=1e-5) and not torch.allclose(logits[0], logits[2], atol=1e-2)


def test_the_export_of_spread_weights_is_that_of_whole_ones(classified, vit, tmp_path) -> None:
    again = tmp_path / "again"
    shutil.copytree(classified / "adapter" / "deep_lora", again)
    model = AutoModelForImageClassification.from_pretrained(vit, num_labels=3)
    model = PeftModel.from_pretrained(model, again)
    exporting.put_exports_at_root(again, model, sharded=True)
    found, expected = load_file(again / WEIGHTS), load_file(classified / "adapter" / WEIGHTS)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    fields = [json.loads((folder / CONFIG).read_text()) for folder in (again, classified / "adapter")]
    assert fields[0] == fields[1]


HOSTILE = (
    None, "", "x", 7, [], {}, {"base_model_class": None}, {"base_model_class": []}, {"base_model_class": {"a": 1}},
    *({"base_model_class": name} for name in (
        "FSDPViTForImageClassification", "AutoModel", "PreTrainedModel", "BertModel", "CLIPModel", "pipeline", "os",
        "Trainer", "models", "__dict__", "__class__", "../x", "os.system", "vit", "a" * 100_000, "\u202e\x00",
    )),
)  # fmt: skip


@pytest.mark.parametrize("mapping", HOSTILE, ids=lambda mapping: str(mapping)[:45])
def test_a_class_that_the_base_is_not_of_is_not_made(mapping, vit, tmp_path, monkeypatch) -> None:
    """The layers are found all the same, in the class of the base's own file."""
    made = []
    monkeypatch.setattr(
        transformers.PreTrainedModel,
        "_from_config",
        classmethod(lambda cls, config, original=transformers.PreTrainedModel._from_config.__func__: (
            made.append(cls.__name__) or original(cls, config)
        )),
    )  # fmt: skip
    save(transformers.ViTForImageClassification, vit, tmp_path / "adapter", ["q_proj", "fc1"])
    with_config(tmp_path / "adapter", auto_mapping=mapping)
    made.clear()
    assert converted(tmp_path / "adapter") == 0 and made == ["ViTModel"]
    assert len(inspect_adapter(tmp_path / "adapter").modules) == 4


def test_a_class_whose_import_fails_is_none(monkeypatch, vit, tmp_path) -> None:
    save(transformers.ViTForImageClassification, vit, tmp_path / "adapter", ["q_proj"])
    with_config(tmp_path / "adapter", auto_mapping={"base_model_class": "Uninstalled"})
    find = type(transformers).__getattr__

    def fail(self, name):
        if name == "Uninstalled":
            raise ModuleNotFoundError("it needs what is not installed")
        return find(self, name)

    monkeypatch.setattr(type(transformers), "__getattr__", fail)
    assert converted(tmp_path / "adapter") == 0


def test_an_adapter_of_a_model_without_head_is_found_in_one_with_a_head(bert, tmp_path) -> None:
    save(transformers.BertModel, bert, tmp_path / "adapter", ["query"])
    transformers.BertForMaskedLM.from_pretrained(bert).save_pretrained(tmp_path / "headed")
    with_config(tmp_path / "adapter", auto_mapping=None, base_model_name_or_path=str(tmp_path / "headed"))
    assert converted(tmp_path / "adapter") == 0
    assert [one.module for one in inspect_adapter(tmp_path / "adapter").modules] == [
        f"encoder.layer.{number}.attention.self.query" for number in range(2)
    ]


def test_an_adapter_of_one_tower_of_the_base_is_found_in_it(clip, tmp_path) -> None:
    save(transformers.CLIPVisionModel, clip, tmp_path / "adapter", ["q_proj"])
    reports = inspect_adapter(tmp_path / "adapter").modules
    assert len(reports) == 2 and converted(tmp_path / "adapter") == 0


def test_embeddings_keep_their_scale_in_a_base_without_head(bert, tmp_path) -> None:
    model = save(transformers.BertForTokenClassification, bert, tmp_path / "adapter", ["word_embeddings"])
    (report,) = inspect_adapter(tmp_path / "adapter").modules
    update = model.base_model.model.get_submodule(report.module).get_delta_weight("default").detach()
    assert report.singular_values == pytest.approx(torch.linalg.svdvals(update)[:4].tolist(), rel=1e-4)


def test_a_base_without_the_layers_is_named_and_layers_may_be_taken_as_linear(bert, vit, tmp_path, capsys) -> None:
    save(transformers.BertModel, bert, tmp_path / "adapter", ["query"])
    words = ["--adapter", str(tmp_path / "adapter"), "--model", str(vit)]
    for command in (["inspect"], ["convert", "--dry_run"]):
        assert main([*command, *words]) == 2
        message = capsys.readouterr().err
        assert "the base model, a ViTModel, has no module 'encoder.layer.0.attention.self.query'" in message
        assert "pass the right one with --model, or --assume_linear if all adapted layers are linear" in message
        assert main([*command, *words, "--assume_linear"]) == 0


def test_a_base_that_is_not_at_hand_is_said(bert, tmp_path, recwarn) -> None:
    save(transformers.BertModel, bert, tmp_path / "adapter", ["query"])
    words = ["inspect", "--adapter", str(tmp_path / "adapter")]
    assert main(words) == 0 and not [one for one in recwarn if "taken as linear" in str(one.message)]
    with_config(tmp_path / "adapter", base_model_name_or_path="gone/away")
    with pytest.warns(UserWarning, match="of another scale: pass --model if there are some, or --assume_linear"):
        assert main(words) == 0
    recwarn.clear()
    assert main([*words, "--assume_linear"]) == 0
    assert not [one for one in recwarn if "taken as linear" in str(one.message)]
