"""The campaign over methods, rates and seeds: chosen by validation alone, resumable run by run, and paired."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.kept_runs import RunFolder
from benchmarks.studies.modality_gap import comparison as benchmark
from benchmarks.studies.modality_gap.comparison import Campaign, Run, compared

METHODS = ["learnable", "learnable from 0.01", "rising"]
SETTINGS: dict[str, Any] = {
    "methods": METHODS, "adapted_methods": ["learnable"], "learning_rates": [0.1, 0.2], "sweep_seeds": [0],
    "seeds": [0, 1], "adapted_seeds": [0, 1], "rank": 4, **dict.fromkeys(benchmark.IN_COMMON, 1),
}  # fmt: skip


def measured(run: Run, *others: object) -> dict[str, Any]:
    """Validation prefers rate 0.2, the test would prefer 0.1."""
    validation = {name: run.rate for name in benchmark.REPORTED}
    test = {name: 1 / run.rate + run.seed + run.rank + METHODS.index(run.method) for name in benchmark.REPORTED}
    shifted = {name: value / 2 for name, value in test.items()}
    return {
        "tau": 0.1,
        "metrics": {"validation": validation, "test": test, "test, shifted": shifted},
        "cpu_seconds": 1.0,
    }


@pytest.fixture
def campaign(tmp_path, monkeypatch) -> Campaign:
    monkeypatch.setattr(benchmark, "measure_run", measured)
    return Campaign(SETTINGS, tmp_path)


def test_the_rate_is_chosen_by_validation_and_every_run_is_made_once(campaign: Campaign, tmp_path) -> None:
    assert campaign.chosen_rate("rising") is None and campaign.paired("rising", 0) is None
    assert campaign.work(task=None, at_most=4) == 4
    # Another process goes on with what this one left: 3 methods x 2 rates, 3 more seeds, 2 runs with an adapter.
    assert Campaign(SETTINGS, tmp_path).work(task=None) == 3 * 2 + 3 + 2 - 4
    assert campaign.work(task=None) == 0
    assert [campaign.chosen_rate(method) for method in METHODS] == [0.2, 0.2, 0.2]
    assert campaign.paired("learnable", 4) == [Run("learnable", 0.2, seed, 4) for seed in (0, 1)]


def test_other_settings_have_runs_of_their_own_and_more_methods_keep_theirs(campaign: Campaign, tmp_path) -> None:
    campaign.work(task=None, at_most=1)
    done = next(campaign.known()).key()
    assert Campaign(SETTINGS | {"steps": 2}, tmp_path).folder.kept(done) is None
    assert Campaign(SETTINGS | {"methods": METHODS[:1]}, tmp_path).folder.kept(done) is not None


def test_a_run_that_another_process_is_at_is_left_to_it(campaign: Campaign, tmp_path) -> None:
    first, second = list(campaign.known())[:2]
    other = RunFolder(tmp_path, {name: SETTINGS[name] for name in benchmark.IN_COMMON})
    with other.claim(first.key()) as mine:
        assert mine
        assert campaign.work(task=None, at_most=1) == 1
        assert campaign.folder.kept(first.key()) is None and campaign.folder.kept(second.key()) is not None
    assert campaign.work(task=None, at_most=1) == 1 and campaign.folder.kept(first.key()) is not None


def test_differences_are_taken_seed_by_seed(campaign: Campaign) -> None:
    campaign.work(task=None)
    runs = {name: [campaign.folder.kept(run.key()) for run in campaign.paired(name, 0)] for name in METHODS}
    cell = compared(runs)["rising"]["test"]["gap"]
    assert cell["values"] == [7.0, 8.0] and cell["mean"] == 7.5 and cell["low"] < cell["mean"] < cell["high"]
    assert cell["minus learnable"] == {"mean": 2.0, "low": 2.0, "high": 2.0}
    assert cell["minus learnable from 0.01"]["mean"] == 1.0
    assert cell["over learnable"]["mean"] == pytest.approx((7 / 5 + 8 / 6) / 2, rel=1e-5)


def test_the_benchmark_refuses_to_compare_while_runs_are_missing(campaign: Campaign, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "KEPT", str(tmp_path))
    monkeypatch.setattr(benchmark, "load_task", lambda *arguments: None)
    with campaign.folder.claim(next(campaign.known()).key()):
        with pytest.raises(
            RuntimeError, match=r"are doing 1 runs, such as 'learnable \| 0.1 \| 0 \| 0'; wait for them"
        ):
            benchmark.measure(SETTINGS)


def test_the_result_holds_every_run_the_pools_and_the_shifted_embeddings_as_a_control(
    campaign: Campaign, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(benchmark, "KEPT", str(tmp_path))
    task = SimpleNamespace(split=SimpleNamespace(train=range(7), test=range(3)))
    monkeypatch.setattr(benchmark, "load_task", lambda *arguments: task)
    result = benchmark.measure(SETTINGS)
    assert result["runs"] == result["cpu_seconds"] == 3 * 2 + 3 + 2 and result["pools"] == {"train": 7, "test": 3}
    assert result["chosen_learning_rates"] == dict.fromkeys(METHODS, 0.2)
    controls = [f"mean shift of {name}" for name in METHODS[:2]]
    assert list(result["frozen"]) == METHODS + controls and list(result["adapted"]) == METHODS[:1] + controls[:1]
    assert result["validation_recall@1"]["rising"] == {"0.1": [0.1], "0.2": [0.2]}
    cell = result["frozen"][controls[0]]["test"]["recall@1"]
    assert cell["mean"] == 5.5 / 2 and cell["minus learnable"]["mean"] == -5.5 / 2
