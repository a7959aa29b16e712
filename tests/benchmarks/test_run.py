"""The runner writes what it measures beside its settings; no figure is asserted here."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from benchmarks import run
from benchmarks.kept_runs import KeptRuns
from benchmarks.result_files import RESULTS, SETTINGS, compact_json, write_json
from benchmarks.speed.peers import METHODS
from benchmarks.speed.workloads import Workload
from tests.benchmarks.cases import ENCODER
from tests.paths import ROOT

PATHS = sorted(SETTINGS.glob("*.json"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_settings_are_complete_and_results_were_made_with_them(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf8"))
    module, function = run.BENCHMARKS[settings["benchmark"]]
    source = ROOT / "benchmarks" / (module.replace(".", "/") + ".py")
    assert f"\ndef {function}(" in source.read_text(encoding="utf8")
    if "workload" in settings:  # otherwise it is about matrices, not models
        Workload(**settings["workload"])
        assert {method.partition("@")[0] for method in settings.get("methods", [])} <= METHODS.keys()
    result = json.loads((RESULTS / path.name).read_text(encoding="utf8"))
    assert result["settings"] == settings
    assert {"versions", "processor", "threads"} <= result["environment"].keys()


@pytest.mark.parametrize("benchmark", ["training_step", "training_memory", "initialization", "adapter_operations"])
def test_a_run_writes_its_settings_and_surroundings_beside_the_figures(benchmark: str, tmp_path, monkeypatch) -> None:
    settings = {
        "benchmark": benchmark, "workload": ENCODER, "methods": ["lora", "deep_lora"], "rank": 4,
        "repeats": 2, "warmup": 0, "threads": torch.get_num_threads(), "seed": 0, "construction_repeats": 2,
        "inference_repeats": 2,
    }  # fmt: skip
    monkeypatch.setattr(run, "SETTINGS", tmp_path / "settings")
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "tiny.json").write_text(json.dumps(settings))
    path = run.run("tiny", repeats=1, output=None)
    result = json.loads(path.read_text())
    assert path == tmp_path / "results" / "tiny.json" and result["settings"] == {**settings, "repeats": 1}
    assert result["environment"]["versions"]["torch"] == version("torch")
    assert not list(path.parent.glob("*.partial*"))


def test_runs_are_kept_for_the_settings_they_were_made_with(tmp_path) -> None:
    path = tmp_path / "runs.json"
    first = KeptRuns(path, {"steps": 1})
    first.runs["a"] = {"score": 0.5}
    first.save()
    assert KeptRuns(path, {"steps": 1}).runs == {"a": {"score": 0.5}}
    with pytest.raises(SystemExit, match="was made with other settings; choose another --output, or remove it"):
        KeptRuns(path, {"steps": 2})


def test_compact_json_holds_the_same_values_with_flat_lists_and_short_records_on_one_line(tmp_path) -> None:
    losses = [1 / 3**power for power in range(200)]
    content = {
        "losses": losses, "pair": ({"rate": 1e-3}, [1, [2]]), "long": {str(i): [i] for i in range(40)},
        "none": None, "empty": [{}, []], "unit": "µs", "nan": float("nan"),
    }  # fmt: skip
    write_json(tmp_path / "new" / "result.json", content)
    text = (tmp_path / "new" / "result.json").read_text(encoding="utf8")
    assert text == compact_json(content) + "\n" and json.dumps(json.loads(text)) == json.dumps(content)
    lines = text.splitlines()
    assert lines[1] == f' "losses": {json.dumps(losses)},' and lines[2] == ' "pair": [{"rate": 0.001}, [1, [2]]],'
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.json"]


def test_results_are_as_the_writer_writes_them() -> None:
    other = [path.name for path in [*PATHS, *RESULTS.glob("*.json")] if _rewritten(path) != path.read_text("utf8")]
    assert other == []
    assert sum(path.read_text("utf8").count("\n") for path in RESULTS.glob("*.json")) <= 60_000


def _rewritten(path: Path) -> str:
    return compact_json(json.loads(path.read_text("utf8"))) + "\n"
