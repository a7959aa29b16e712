"""Folders of contrastive models that are damaged or were changed: this project's own errors, or a model."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from tests.deep_lora.export.fuzz_adapters import ODD, WEIGHT_CHANGES
from tests.training import tiny
from tests.training.tiny import QUICK
from training.cli import main
from training.errors import UsageError
from training.pairs.files import load_contrastive

DESCRIPTION, HEADS = "contrastive.json", "contrastive.safetensors"


@pytest.fixture(scope="module")
def sound(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    words = ["--dataset", tiny.save_pictures(folder), "--validation_fraction", "0.25", "--output_dir", folder / "run"]
    assert main(["contrastive", "--model", str(clip), *map(str, words), *QUICK]) == 0
    return folder / "run" / "adapter"


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "adapter")


def changed(value, generator):
    """The description with an entry left out, added, or replaced somewhere inside."""
    if not isinstance(value, dict) or not value or generator.random() < 0.2:
        return generator.choice(ODD)
    name, others = generator.choice(sorted(value)), dict(value)
    chance = generator.random()
    if chance < 0.2:
        others.pop(name)
    elif chance < 0.3:
        others["x"] = generator.choice(ODD)
    else:
        others[name] = changed(value[name], generator)
    return others


@pytest.mark.parametrize("seed", range(24))
def test_a_changed_description_is_refused_or_makes_a_model(seed, copy) -> None:
    path = copy / DESCRIPTION
    path.write_text(json.dumps(changed(json.loads(path.read_text(encoding="utf-8")), random.Random(seed))))
    try:
        assert load_contrastive(copy).training is False
    except UsageError as error:
        assert str(copy) in str(error) or "base model" in str(error)


@pytest.mark.parametrize("seed", range(12))
def test_changed_tensors_are_refused_or_make_a_model(seed, copy) -> None:
    path, generator = copy / HEADS, random.Random(seed)
    shapeless = [change for change in WEIGHT_CHANGES if change.__name__ != "change_tensors"]  # it wants matrices
    path.write_bytes(generator.choice(shapeless)(path.read_bytes(), generator))
    try:
        assert load_contrastive(copy).training is False
    except UsageError as error:
        assert HEADS in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {}}, r"no model can be built from the settings of .* \(contrastive.json\): KeyError"),
        ({"settings": "x"}, r"no model can be built from the settings of"),
        ({"bases": {"../..": "x"}}, r"names the parts .*; it needs model, or x_tower and y_tower"),
        ({"bases": {"model": 7}}, "the base model of model is 7; it must be a name or a folder"),
        ({"bases": {"model": "nowhere"}}, r"the base model 'nowhere' of model cannot be loaded; pass bases=\{'model'"),
    ],
)
def test_the_error_says_what_is_wrong(change, message, copy) -> None:
    path = copy / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(UsageError, match=message):
        load_contrastive(copy)
