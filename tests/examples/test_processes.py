"""The examples that train with Trainer run under `accelerate launch` as they do alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FILES = {
    "nothing_to_tune": {"lora_export", "texts.json", "check.json", "scores.svg", "results.json"},
    "causal_lm": {"results.json", "deep_lora_adapter", "lora_export"},
    "modality_gap": {"results.json", "projections.png"},
}  # fmt: skip
SHARED = ("causal_lm", "modality_gap")  # the examples for several processes


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf8"))


def losses(log: list[dict]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.parametrize("name", FILES)
def test_it_runs_from_beginning_to_end(name: str, alone) -> None:
    assert {path.name for path in alone(name).iterdir()} == FILES[name]
    assert results(alone(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_two_processes_leave_the_same_files(name: str, alone, together) -> None:
    folder, reports = together
    assert [report[name]["status"] for report in reports] == [0, 0]
    files = [{str(path.relative_to(root)) for path in root.rglob("*")} for root in (alone(name), folder / name)]
    assert files[0] == files[1]
    assert results(folder / name).keys() == results(alone(name)).keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_only_the_main_process_prints_and_writes(name: str, together) -> None:
    main, other = (report[name] for report in together[1])
    assert main["printed"] and main["written"]
    assert (other["printed"], other["written"]) == ("", [])


@pytest.mark.slow
def test_a_batch_shared_by_two_processes_is_the_batch_of_one(alone, together) -> None:
    """The first loss is taken before any step, so rounding has had no time to grow."""
    one, two = results(alone("causal_lm")), results(together[0] / "causal_lm")
    assert two["heldout_loss"]["before"] == pytest.approx(one["heldout_loss"]["before"], rel=1e-5)
    assert losses(two["log"])[0] == pytest.approx(losses(one["log"])[0], rel=1e-4)
