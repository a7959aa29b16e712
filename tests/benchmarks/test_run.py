"""The benchmark runner measures what it says, on tiny models; no figure is asserted here."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.paths import ROOT

FOLDER = ROOT / "benchmarks"
sys.path.insert(0, str(FOLDER))

import measuring  # noqa: E402
import run  # noqa: E402
from benchmarks.kept_runs import KeptRuns  # noqa: E402
from benchmarks.speed.peers import METHODS, adapted  # noqa: E402
from benchmarks.speed.workloads import Workload  # noqa: E402

ENCODER = {
    "kind": "encoder", "batch": 2, "tokens": 8,
    "config": {
        "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    },
}  # fmt: skip
DECODER = {
    "kind": "causal_lm", "batch": 2, "tokens": 8,
    "config": {
        "vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    },
}  # fmt: skip
SETTINGS = sorted((FOLDER / "settings").glob("*.json"))


def test_every_round_calls_every_function_and_ratios_are_taken_within_it() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = measuring.interleaved_seconds(functions, repeats=5, warmup=2, seed=0)
    assert [len(values) for values in seconds.values()] == [5, 5]
    rounds = [calls[i : i + 2] for i in range(0, len(calls), 2)]
    assert len(rounds) == 7 and all(sorted(names) == ["a", "b"] for names in rounds)
    compared = measuring.compared({"a": [1.0, 4.0, 9.0], "b": [2.0, 2.0, 3.0]}, "b")
    assert compared["a"]["ratio_to_b"]["median"] == 2.0 and compared["a"]["seconds"]["max"] == 9.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts what the allocator of the CPU hands out")
def test_the_peak_is_of_what_is_alive_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.empty(1000, 1000)

    def at_once() -> None:
        kept = [torch.empty(1000, 1000) for _ in range(3)]
        del kept

    assert measuring.peak_allocated_bytes(one_after_the_other) == 4_000_000
    assert measuring.peak_allocated_bytes(at_once) == 12_000_000


@pytest.mark.parametrize("workload", [ENCODER, DECODER], ids=["encoder", "decoder"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_adapts_all_linear_layers_of_the_blocks(method: str, workload: dict) -> None:
    shape = Workload(**workload)
    plain = shape.model(seed=0)
    linear = sum(isinstance(module, nn.Linear) for name, module in plain.named_modules() if "head" not in name)
    model = adapted(shape.model(seed=0), method, shape.targets, 4)
    adapted_modules = sum(hasattr(module, "base_layer") for module in model.modules())
    assert adapted_modules == (0 if method == "frozen" else linear)
    loss = shape.loss(model, seed=0)()
    assert torch.isfinite(loss) and loss.requires_grad
    loss.backward()


def test_the_limit_propagates_gradients_exactly_as_far_as_an_adapter_would() -> None:
    shape = Workload(**ENCODER)
    reached: dict[str, dict[str, bool]] = {}
    for method in ("frozen", "lora"):
        model = adapted(shape.model(seed=0), method, shape.targets, 4)
        reached[method] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "lora" not in name:
                key = name.replace("base_model.model.", "").replace(".base_layer", "")
                module.register_forward_pre_hook(
                    lambda module, args, key=key, seen=reached[method]: seen.update({key: args[0].requires_grad})
                )
        shape.loss(model, seed=0)()
    assert reached["frozen"] == reached["lora"] and set(reached["lora"].values()) == {True, False}


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.stem)
def test_settings_are_complete_and_results_were_made_with_them(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf8"))
    assert settings["benchmark"] in run.BENCHMARKS
    if "workload" in settings:  # otherwise it is about matrices, not models
        Workload(**settings["workload"])
        assert {method.partition("@")[0] for method in settings.get("methods", [])} <= METHODS.keys()
    result = json.loads((FOLDER / "results" / path.name).read_text(encoding="utf8"))
    assert result["settings"] == settings
    assert {"versions", "processor", "threads"} <= result["environment"].keys()


@pytest.mark.parametrize("benchmark", ["training_step", "training_memory", "initialization", "adapter_operations"])
def test_a_run_writes_its_settings_and_surroundings_beside_the_figures(benchmark: str, tmp_path, monkeypatch) -> None:
    settings = {
        "benchmark": benchmark, "workload": ENCODER, "methods": ["lora", "deep_lora"], "rank": 4,
        "repeats": 2, "warmup": 0, "threads": torch.get_num_threads(), "seed": 0, "construction_repeats": 2,
        "inference_repeats": 2,
    }  # fmt: skip
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "tiny.json").write_text(json.dumps(settings))
    path = run.run("tiny", repeats=1, output=None)
    result = json.loads(path.read_text())
    assert path == tmp_path / "results" / "tiny.json" and result["settings"] == {**settings, "repeats": 1}
    assert result["environment"]["versions"]["torch"] == version("torch")
    assert not list(path.parent.glob("*.partial"))


def test_runs_are_kept_for_the_settings_they_were_made_with(tmp_path) -> None:
    path = tmp_path / "runs.json"
    first = KeptRuns(path, {"steps": 1})
    first.runs["a"] = {"score": 0.5}
    first.save()
    assert KeptRuns(path, {"steps": 1}).runs == {"a": {"score": 0.5}}
    with pytest.raises(SystemExit, match="was made with other settings; name another --output, or remove it"):
        KeptRuns(path, {"steps": 2})
