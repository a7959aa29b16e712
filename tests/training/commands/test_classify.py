"""`deep-lora classify` on folders of images."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification, ViTImageProcessor

import deep_lora  # noqa: F401
from tests.training import tiny


@pytest.fixture
def pictures(tmp_path):
    """Reddish and bluish pictures in a folder each."""
    generator = random.Random(0)
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            shade = tuple(min(255, value + generator.randrange(40)) for value in color)
            Image.new("RGB", (20, 20), shade).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def test_a_folder_of_images_becomes_an_adapter_and_an_export(vit, pictures, finetune, tmp_path) -> None:
    status, printed = finetune(vit, pictures, "--max_steps", "20", "--learning_rate", "1e-2", command="classify")
    assert status == 0, printed
    found = tiny.results(tmp_path / "run")
    assert found["label_names"] == ["blue", "red"] and found["samples"] == {"train": 18, "validation": 2}
    assert found["metrics"]["validation"]["accuracy"] == 1.0
    pixels = torch.randn(2, 3, 16, 16)
    logits = []
    for name in ("adapter", "adapter/deep_lora"):
        base = AutoModelForImageClassification.from_pretrained(vit, num_labels=2)
        logits.append(PeftModel.from_pretrained(base, tmp_path / "run" / name).eval()(pixels).logits)
    assert torch.allclose(*logits, atol=1e-5)


def test_convolutions_are_adapted_by_name_and_the_head_is_normalized(pictures, finetune, tmp_path) -> None:
    torch.manual_seed(1)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2, layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "resnet")
    words = ["--target_modules", "convolution", "--normalized_head", "--modules_to_save", "classifier"]
    status, printed = finetune(tmp_path / "resnet", pictures, *words, command="classify")
    assert status == 0, printed
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    (name,) = [name for name in saved if name.endswith("base_temperature")]
    weight = saved[name.replace("base_temperature", "weight")]
    assert "classifier" in name and weight.shape == (2, 16)
    assert (tmp_path / "run" / "adapter" / "deep_lora").is_dir()


def test_a_column_without_images_is_named(vit, reviews, pictures, finetune) -> None:
    status, printed = finetune(vit, reviews, "--image_column", "text", command="classify")
    assert status == 2 and "40 images in column 'text' of" in printed and "are not there, the first is" in printed
    status, printed = finetune(vit, pictures, "--label_column", "kind", command="classify")
    assert status == 2 and "there is no column ['kind'] in" in printed


def test_a_model_without_an_image_processor_is_named(bert, pictures, finetune) -> None:
    status, printed = finetune(bert, pictures, command="classify")
    assert status == 2 and "the image processor of" in printed


def test_classes_of_the_validation_folder_go_by_name_and_are_shown(vit, pictures, finetune, tmp_path) -> None:
    (tmp_path / "validation").mkdir()
    (pictures / "red").rename(tmp_path / "red")
    shutil.copytree(tmp_path / "red", pictures / "red" / "2021")
    shutil.copytree(tmp_path / "red", tmp_path / "validation" / "red")
    words = ["--max_steps", "20", "--learning_rate", "1e-2", "--validation_data", tmp_path / "validation"]
    status, printed = finetune(vit, pictures, *words, command="classify")
    assert status == 0 and "classes  train (validation): 'blue' 10 (0), 'red' 10 (10)" in printed, printed
    assert tiny.results(tmp_path / "run")["metrics"]["validation"]["accuracy"] == 1.0


def test_damaged_images_are_listed_by_a_dry_run_and_may_be_left_out(vit, pictures, finetune) -> None:
    (pictures / "red" / "3.png").write_bytes(b"no image")
    words = ["--dry_run", "--validation_data", pictures]
    status, printed = finetune(vit, pictures, *words, command="classify")
    assert status == 2 and "1 of 20 pictures of the" in printed and "red/3.png" in printed, printed
    with pytest.warns(UserWarning, match="1 of 20 pictures of the train data are left out: .*3.png"):
        status, printed = finetune(vit, pictures, *words, "--skip_unreadable", command="classify")
    assert status == 0 and "19 train, 19 validation" in printed
    for path in (pictures / "red").iterdir():
        path.write_bytes(b"no image")
    with pytest.warns(UserWarning, match="10 of 20 pictures of the train data are left out"):
        status, printed = finetune(vit, pictures, *words, "--skip_unreadable", command="classify")
    told = "all training rows are of one class in the column 'label' ('blue'), so there is nothing to tell apart; pass"
    assert status == 2 and told in printed
