"""Every example's `--smoke` works without data or packages of its own, in one process and in two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.conftest import SCRIPTS

FILES = {
    "few_shot_text": {"results.json", "learning_curves.png", "deep_lora_adapter", "lora_export", "smoke"},
    "causal_lm": {"results.json", "deep_lora_adapter", "lora_export", "tiny_llama"},
    "modality_gap": {"results.json", "projections.png", "gap_against_recall.png"},
    "neural_collapse": {"results.json", "curves.png", "simplex.png"},
    "matrix_completion": {"results.json", "movielens.png", "photograph.png", "trajectory.png"},
}


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf8"))


def names_in(value: object) -> object:
    """The keys of nested dictionaries, without the values."""
    return {key: names_in(item) for key, item in value.items()} if isinstance(value, dict) else None


def test_no_example_is_left_out() -> None:
    assert set(FILES) == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_from_beginning_to_end(name: str, alone) -> None:
    assert {path.name for path in alone(name).iterdir()} == FILES[name]
    assert results(alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_two_processes_leave_the_same_files(name: str, alone, together) -> None:
    folder, reports = together
    assert [report[name]["status"] for report in reports] == [0, 0]
    files = [{str(path.relative_to(root)) for path in root.rglob("*")} for root in (alone(name), folder / name)]
    assert files[0] == files[1]
    assert names_in(results(folder / name)) == names_in(results(alone(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_only_the_main_process_prints_and_writes(name: str, together) -> None:
    main, other = (report[name] for report in together[1])
    assert main["printed"] and main["written"]
    assert (other["printed"], other["written"]) == ("", [])


@pytest.mark.slow
def test_methods_shared_out_between_processes_give_the_numbers_of_one(alone, together) -> None:
    one, two = (results(folder / "neural_collapse" if folder is not None else alone("neural_collapse"))
                for folder in (None, together[0]))  # fmt: skip
    assert one["curves"].keys() == two["curves"].keys()
    for method, points in one["curves"].items():
        assert len(points) > 5
        for before, after in zip(points, two["curves"][method], strict=True):
            assert before == pytest.approx(after, rel=1e-4)


@pytest.mark.slow
def test_a_batch_shared_by_two_processes_is_the_batch_of_one(alone, together) -> None:
    """The first loss is taken before any step, so rounding has had no time to grow."""
    one, two = results(alone("causal_lm")), results(together[0] / "causal_lm")
    assert two["processes"] == 2 and one["processes"] == 1
    assert two["heldout"]["before"] == pytest.approx(one["heldout"]["before"], rel=1e-5)
    assert two["training_loss"][0] == pytest.approx(one["training_loss"][0], rel=1e-4)
    first, second = (results(folder)["runs"] for folder in (alone("few_shot_text"), together[0] / "few_shot_text"))
    losses = [[run["loss_curve"][0][1] for run in runs] for runs in (first, second)]
    assert losses[0] == pytest.approx(losses[1], abs=0.1), "a mean over the batch, not one for each process"
