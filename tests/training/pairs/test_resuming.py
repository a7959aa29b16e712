"""A contrastive run that resumes from a checkpoint is the uninterrupted one: schedule, swaps and all weights."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.training import tiny
from tests.training.tiny import QUICK
from training.cli import main
from training.trainer import checkpoints

EVERY_STEP = ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9"]
SWAPPED = ["--swap", "soft", "--swap_probability", "0.5"]


def weights(run):
    """Everything that was learned, the count of swap decisions among it."""
    files = sorted((run / "adapter").rglob("*.safetensors"))
    return {f"{path.parent.name}/{key}": value for path in files for key, value in load_file(path).items()}


def losses(run):
    return [(entry["loss"], entry.get("tau")) for entry in tiny.results(run)["log"] if "loss" in entry]


@pytest.fixture(scope="module", params=["joint", "towers"])
def finished(request, clip, bert, vit, tmp_path_factory):
    """The options of a run with a checkpoint at each step, and its folder: CLIP on a schedule, towers with dropout."""
    folder = tmp_path_factory.mktemp("finished")
    data = tiny.save_pictures(folder / "pictures")
    models = {
        "joint": ["--model", clip, "--schedule", "cosine"],
        "towers": ["--text_model", bert, "--image_model", vit, "--chunk_size", "3", "--temperature_mode", "softplus"],
    }
    words = [*models[request.param], "--dataset", data, "--validation_fraction", "0.25", *SWAPPED]
    options = [*map(str, words), *QUICK, *EVERY_STEP]
    assert main(["contrastive", *options, "--output_dir", str(folder / "run")]) == 0
    return options, folder / "run"


@pytest.mark.parametrize("last", [1, 4, 6])
def test_a_resumed_run_ends_with_the_same_bits(last, finished, tmp_path) -> None:
    options, whole = finished
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "adapter")
    for path in checkpoints.all_checkpoints(run)[last:]:
        shutil.rmtree(path)
    assert main(["contrastive", *options, "--output_dir", str(run)]) == 0
    assert tiny.results(run)["resumed_from"] == f"checkpoint-{last}"
    assert losses(run) == losses(whole) and len(losses(run)) == 6
    expected, found = weights(whole), weights(run)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    (count,) = [value for name, value in found.items() if name.endswith("objective._extra_state")]
    assert count == 6  # one decision for each step; the batches that set the subspaces do not count


def test_other_swaps_do_not_go_on_with_a_run(finished, capsys) -> None:
    options, whole = finished
    assert main(["contrastive", *options, "--output_dir", str(whole), "--swap_probability", "0.25"]) == 2
    assert "swap_probability was 0.5 and is 0.25" in capsys.readouterr().err
