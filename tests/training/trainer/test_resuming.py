"""A run resumes with its own data, base model and adapter, wherever they are now, and with no others."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from tests.training import tiny
from tests.training.tiny import QUICK
from training.cli import main
from training.reading.sources import read_source
from training.settings.data import TextDataArguments
from training.tasks.text_classification import class_columns
from training.trainer import checkpoints, digests

STEPS = ["--save_strategy", "steps", "--save_steps", "1"]


def save_adapter_config(path, **fields):
    content = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]} | fields
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(bert, tmp_path_factory):
    """A folder with a base model, data, an adapter's configuration, and the finished run that used them."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(bert, folder / "base" / "tiny")
    (folder / "fold").mkdir()
    tiny.save_csv(folder / "fold" / "train.csv")
    save_adapter_config(folder / "adapter.json")
    assert main(["finetune", *words(folder)]) == 0
    return folder


@pytest.fixture
def project(finished, tmp_path):
    """A copy, which tests may change."""
    return shutil.copytree(finished, tmp_path / "project")


def words(folder, **changed):
    paths = {
        "model": folder / "base" / "tiny", "dataset": folder / "fold" / "train.csv",
        "adapter_config": folder / "adapter.json", "output_dir": folder / "run",
    }  # fmt: skip
    quick = [word for word in QUICK if word not in ("--rank", "2")]  # the adapter_config has it
    return [*quick, *STEPS, *(str(word) for name, value in (paths | changed).items() for word in (f"--{name}", value))]


@pytest.fixture
def run(project, capsys, monkeypatch):
    monkeypatch.setattr("training.results.report.draw", lambda *_: None)

    def again(folder=project, **changed):
        status = main(["finetune", *words(folder, **changed)])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return again


def refused(outcome, what: str) -> None:
    status, printed = outcome
    assert status == 2 and f"checkpoint-3 belongs to another run ({what})" in printed, printed
    assert "pass another --output_dir, or --overwrite to start over" in printed


def test_another_fold_of_the_same_name_and_length_is_refused(project, run) -> None:
    (project / "other").mkdir()
    other = tiny.save_csv(project / "other" / "train.csv", seed=1)
    refused(run(dataset=other), "the training data differ")


def test_data_that_were_edited_are_refused(project, run) -> None:
    data = project / "fold" / "train.csv"
    text = data.read_text()
    data.write_text(text.replace("good", "poor", 1))
    refused(run(), "the training data differ")
    data.write_text(text)
    assert run()[0] == 0


def test_another_base_model_of_the_same_name_and_shape_is_refused(project, bert, run) -> None:
    other = shutil.copytree(bert, project / "elsewhere" / "tiny")
    torch.manual_seed(2)
    BertModel(BertConfig.from_pretrained(bert)).save_pretrained(other)
    refused(run(model=other), "the base model differs")


def test_an_adapter_config_that_was_edited_is_refused_and_one_that_was_reordered_is_not(project, run) -> None:
    path = project / "adapter.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(fields.items())), indent=1))
    assert run()[0] == 0
    save_adapter_config(path, lora_alpha=32)
    refused(run(), "the adapter config differs")


@pytest.mark.parametrize("choice", [{"load_best_model_at_end": "true"}, {"lr_scheduler_type": "reduce_lr_on_plateau"}])
def test_other_validation_data_are_refused_where_they_choose_the_model_or_the_rate(choice, project, run) -> None:
    held = tiny.save_csv(project / "held.csv", rows=12, seed=1)
    settings = {"validation_data": held, "eval_strategy": "steps", "eval_steps": 1, "output_dir": project / "best"}
    assert run(**settings, **choice)[0] == 0
    assert run(**settings, **choice)[0] == 0
    tiny.save_csv(held, rows=12, seed=2)
    refused(run(**settings, **choice), "the validation data differ")


def test_other_validation_data_that_are_only_looked_at_are_not_refused(project, run) -> None:
    held = tiny.save_csv(project / "held.csv", rows=12, seed=1)
    settings = {"validation_data": held, "output_dir": project / "seen"}
    assert run(**settings)[0] == 0
    tiny.save_csv(held, rows=12, seed=2)
    status, printed = run(**settings)
    assert status == 0 and "resumed  from checkpoint-3" in printed, printed
    status, printed = run(**settings, load_best_model_at_end="true", eval_strategy="steps", eval_steps=1)
    assert status == 0 and "resumed  from checkpoint-3" in printed, printed


def test_everything_that_differs_is_named(project, bert, run) -> None:
    save_adapter_config(project / "adapter.json", r=4)
    other = tiny.save_csv(project / "other.csv", seed=1)
    outcome = run(dataset=other, seed=3)
    refused(outcome, "the training data differ, the adapter config differs, seed was 0 and is 3")


def test_a_run_goes_on_after_all_of_it_was_moved_and_the_line_says_where(finished, project, run) -> None:
    moved = project.rename(project.parent / "elsewhere")
    (moved / "fold").rename(moved / "folds")
    (moved / "folds" / "train.csv").rename(moved / "folds" / "reviews.csv")
    (moved / "base").rename(moved / "bases")
    shutil.rmtree(moved / "run" / "checkpoint-3")
    changed = {"dataset": moved / "folds" / "reviews.csv", "model": moved / "bases" / "tiny"}
    status, printed = run(moved, **changed)
    assert status == 0 and "resumed  from checkpoint-2, with 3 steps in all" in printed, printed
    expected, found = (load_file(path / "run/adapter/adapter_model.safetensors") for path in (finished, moved))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    status, printed = run(moved, **changed)
    assert status == 0 and "resumed  from checkpoint-3, which is already complete: all 3 steps are done" in printed


def test_a_new_run_says_nothing_of_going_on(project, run) -> None:
    status, printed = run(output_dir=project / "new")
    assert status == 0 and "resumed" not in printed


def test_a_manifest_without_digests_is_compared_by_names(project, run) -> None:
    path = project / "run" / "checkpoint-3" / checkpoints.MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["digests"]
    path.write_text(json.dumps(manifest))
    status, printed = run()
    assert status == 0 and "resumed  from checkpoint-3" in printed, printed
    refused(run(seed=5), "seed was 0 and is 5")
    other = tiny.save_csv(project / "other.csv")
    refused(run(dataset=other), "dataset was 'train.csv' and is 'other.csv'")


def test_manifests_name_no_path_of_this_machine(project) -> None:
    manifests = list((project / "run").rglob(checkpoints.MANIFEST))
    assert manifests and all("/" not in json.dumps(checkpoints.read_manifest(path.parent)) for path in manifests)


def test_contrastive_pairs_go_on_wherever_the_pictures_lie_and_with_no_others(clip, tmp_path, contrastive) -> None:
    data = tiny.save_pictures(tmp_path / "pictures")
    assert contrastive(data, "--model", clip, *STEPS)[0] == 0
    moved = (tmp_path / "pictures").rename(tmp_path / "moved") / data.name
    status, printed = contrastive(moved, "--model", clip, *STEPS)
    assert status == 0 and "resumed  from checkpoint-3, which is already complete" in printed, printed
    for path in moved.parent.glob("images/*.png"):
        Image.new("RGB", (20, 20), "red").save(path)
    status, printed = contrastive(moved, "--model", clip, *STEPS)
    assert status == 2 and "(the training data differ)" in printed, printed


def test_digests_of_data_are_of_rows_in_their_order(tmp_path) -> None:
    settings = TextDataArguments()

    def read(name: str):
        return read_source(str(tiny.save_csv(tmp_path / name)), settings)["train"](class_columns(settings))

    data = read("a.csv")
    whole = digests.of_data(data)
    assert digests.of_data(data.select(list(range(len(data))))) == whole  # through a list of indices, not as a slice
    assert digests.of_data(data.select([1, 0, *range(2, len(data))])) != whole
    assert digests.of_data(data.select(range(len(data) - 1))) != whole
    assert digests.of_data(data.rename_column("label", "class")) != whole
    assert digests.of_data(read("b.csv")) == whole


def test_digests_of_models_are_of_what_a_folder_holds(bert, tmp_path) -> None:
    def digest(name) -> str:
        return digests.of_models({"model": str(name)})

    copy = shutil.copytree(bert, tmp_path / "copy")
    assert digest(copy) == digest(bert) and digest("some/model") != digest("other/model")
    (copy / "results.json").write_text("{}")  # of a run that writes into the folder
    assert digest(copy) == digest(bert)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert digest(copy) != digest(bert)


def test_a_digest_of_a_large_file_sees_its_size_and_blocks_all_over_it(tmp_path) -> None:
    folders = []
    for name, content in (("a", b"x" * 5_000_000), ("b", b"x" * 5_000_001), ("c", b"x" * 2_500_000 + b"y" * 2_500_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
        folders.append(digests.of_models({"model": str(tmp_path / name)}))
    assert len(set(folders)) == 3


def test_a_run_that_goes_on_from_the_end_of_an_epoch_is_the_one_that_was_not_cut(bert, reviews, tmp_path) -> None:
    """The checkpoint is written before the evaluation, which must leave the random states, of dropout too, alone."""
    epoch = ["--num_train_samples", "8", "--max_steps", "4", "--eval_strategy", "epoch", "--save_total_limit", "5"]
    folder = tmp_path / "run"
    command = ["finetune", "--model", str(bert), "--dataset", str(reviews), "--output_dir", str(folder)]
    assert main([*command, *QUICK, *STEPS, *epoch]) == 0
    expected = load_file(folder / "adapter" / "deep_lora" / "adapter_model.safetensors")
    for number in (3, 4):
        shutil.rmtree(folder / f"checkpoint-{number}")
    assert main([*command, *QUICK, *STEPS, *epoch]) == 0
    assert tiny.results(folder)["resumed_from"] == "checkpoint-2"
    found = load_file(folder / "adapter" / "deep_lora" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
