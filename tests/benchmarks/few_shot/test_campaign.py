"""The runs of the few-shot study: choices by validation, kept one by one, paired by seed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import run as runner
from benchmarks.few_shot import campaign as campaign_module
from benchmarks.few_shot.campaign import Campaign, Run
from benchmarks.few_shot.methods import Method, adapted, optimizer_of
from benchmarks.few_shot.one_run import effective_ranks, measure_run
from benchmarks.few_shot.summary import summary
from benchmarks.few_shot.tasks.base import Task, TaskSettings
from tests.benchmarks.cases import SMALL

SETTINGS: dict[str, Any] = {
    "title": "tiny", "task": {"name": "simlex", **SMALL}, "baseline": "LoRA",
    "sweep_seeds": [100, 101], "export_tolerances": [0.01],
    "methods": {
        "LoRA": {"adapter": "lora", "config": {"r": 8}, "rates": [1e-4, 1e-3], "then": [{"r": 4}], "seeds": 3},
        "Deep LoRA": {"adapter": "deep_lora", "config": {"r": 8}, "batches": 4, "rates": [1e-3], "seeds": 2},
    },
}  # fmt: skip
METHODS = {
    "LoRA": Method("lora", {"r": 2}),
    "PiSSA": Method("lora", {"r": 2, "init_lora_weights": "pissa_niter_4"}),
    "LoRA-GA": Method("lora", {"r": 2, "init_lora_weights": "lora_ga"}, batches=1),
    "the paper's LoRA": Method("lora", {"r": 2}, start="normal"),
    "Deep LoRA": Method("deep_lora", {"r": 2}, batches=1),
    **{f"Deep LoRA, {start}": Method("deep_lora", {"r": 2}, 1, start=start) for start in ("aligned", "left", "right")},
    "full": Method("full"),
}


def measured(task: object, method: Method, rate: float, seed: int, tolerances: list[float]) -> dict[str, Any]:
    """Validation likes rate 3e-3 and rank 4; the test would like the smallest rate."""
    validation = 1 - abs(np.log10(rate / 3e-3)) + (method.config["r"] == 4)
    test = 1e-4 / rate + seed
    exported = [{"tolerance": 0.01, "median_rank": 1.0, "max_rank": 2, "test": test - 1.0}] if tolerances else []
    return {
        "validation": validation, "test": test, "loss": [2.0, 1.0], "trainable": 5, "cpu_seconds": 1.5,
        "curve": [{"step": 2, "validation": validation, "test": test}],
        "exported": exported if method.adapter == "deep_lora" else [],
    }  # fmt: skip


@pytest.fixture
def campaign(tmp_path, monkeypatch) -> Campaign:
    monkeypatch.setattr(campaign_module, "measure_run", measured)
    return Campaign(SETTINGS, tmp_path)


class NamedTask:
    """What the campaign asks of a task when the runs are made up."""

    settings = TaskSettings(name="made up", **SMALL)


def test_the_rate_is_chosen_by_validation_and_the_sweep_widens_at_an_end_that_is_best(campaign: Campaign) -> None:
    assert campaign.chosen("LoRA") is None and campaign.compared("LoRA") == []
    campaign.work(NamedTask(), float("inf"))
    assert [candidate.rate for candidate in campaign.swept("LoRA")] == [1e-4, 1e-3, 3e-3, 1e-2]
    chosen = campaign.chosen("LoRA")
    assert chosen.rate == 3e-3 and chosen.method.config == {"r": 4}
    assert campaign.compared("LoRA")[0] == Run(chosen.method, 3e-3, 0)


def test_each_batch_size_has_a_sweep_of_its_own_and_the_best_of_all_is_changed(tmp_path, monkeypatch) -> None:
    def small_batches_like_a_lower_rate(task: object, method: Method, rate: float, *more: Any) -> dict[str, Any]:
        return measured(task, method, rate * (3 if method.batch_size == 2 else 1), *more)

    monkeypatch.setattr(campaign_module, "measure_run", small_batches_like_a_lower_rate)
    lora = SETTINGS["methods"]["LoRA"] | {"batch_sizes": [2, 8], "rates": [3e-4, 1e-3, 1e-2]}
    campaign = Campaign(SETTINGS | {"methods": {"LoRA": lora}}, tmp_path)
    campaign.work(NamedTask(), float("inf"))
    tried = [(candidate.method.batch_size, candidate.rate) for candidate in campaign.candidates("LoRA")]
    assert tried == [(size, rate) for size in (2, 8) for rate in (3e-4, 1e-3, 1e-2)] + [(2, 1e-3)]
    chosen = summary(campaign)["methods"]["LoRA"]["chosen"]
    assert chosen == {"rate": 1e-3, "config": {"r": 4}, "batch_size": 2}


def test_what_an_earlier_result_has_is_not_run_again(campaign: Campaign, tmp_path) -> None:
    campaign.work(NamedTask(), float("inf"))
    earlier = summary(campaign)["methods"]
    methods = SETTINGS["methods"] | {"LoRA, its batch": SETTINGS["methods"]["LoRA"] | {"batch_sizes": [4, 2]}}
    wider = Campaign(SETTINGS | {"methods": methods}, tmp_path / "empty", earlier)
    wider.work(NamedTask(), float("inf"))
    assert len(list(wider.folder.path.glob("*_100.json"))) == 4  # the rates at 2 samples a step; those at 4 are known
    assert not list(wider.folder.path.glob("*_0.json"))  # the choice is what LoRA chose before
    rows = summary(wider)["methods"]
    assert rows["LoRA, its batch"]["test"] == earlier["LoRA"]["test"]
    assert len(rows["LoRA, its batch"]["sweep"]) == 2 * 4 + 1 and rows["LoRA"] == earlier["LoRA"]


def test_a_run_with_another_batch_size_sees_the_same_samples_in_the_same_order(monkeypatch) -> None:
    monkeypatch.setattr(Task, "__abstractmethods__", frozenset())
    task = Task(TaskSettings(name="made up", **SMALL))
    single = task.with_batch_size(1)
    assert (single.settings.batch, single.settings.steps) == (1, SMALL["steps"] * SMALL["batch"])
    assert (task.settings.batch, task.settings.steps) == (SMALL["batch"], SMALL["steps"])
    usual, others = (t.batches(np.arange(SMALL["samples"]), seed=0) for t in (task, single))
    assert [len(batch) for batch in others] == [1] * 8
    assert np.array_equal(np.concatenate(usual), np.concatenate(others))


def test_every_run_is_made_once_by_whoever_comes(campaign: Campaign, tmp_path) -> None:
    assert campaign.work(NamedTask(), 0.0) == 0
    # 4 rates and 1 change on 2 seeds, 3 compared runs, and 2 of the method that is not swept
    assert campaign.work(NamedTask(), float("inf")) == 4 * 2 + 2 + 3 + 2
    assert Campaign(SETTINGS, tmp_path).work(NamedTask(), float("inf")) == 0
    other = SETTINGS | {"task": SETTINGS["task"] | {"steps": 3}}
    assert Campaign(other, tmp_path).missing()


def test_a_run_that_another_process_is_at_is_left_to_it(campaign: Campaign) -> None:
    first = campaign.missing()[0]
    with campaign.folder.claim(first.key()) as mine:
        assert mine
        campaign.work(NamedTask(), float("inf"))
    assert campaign.kept(first) is None and campaign.missing()[0] == first


def test_differences_are_taken_seed_by_seed_against_the_baseline(campaign: Campaign) -> None:
    campaign.work(NamedTask(), float("inf"))
    result = summary(campaign)
    lora, deep = result["methods"]["LoRA"], result["methods"]["Deep LoRA"]
    assert lora["test"]["mean"] == pytest.approx(1 + 1e-4 / 3e-3, abs=1e-5) and lora["difference"]["mean"] == 0
    assert deep["difference"]["mean"] == pytest.approx(0.1 - 1e-4 / 3e-3, abs=1e-5)
    assert (deep["seeds_won"], deep["seeds_compared"]) == (2, 2) and deep["sweep"] == []
    assert [candidate["rate"] for candidate in lora["sweep"]] == [1e-4, 1e-3, 3e-3, 1e-2, 3e-3]
    assert deep["exported"][0]["test_minus_full"]["mean"] == -1 and deep["exported"][0]["max_rank"] == 2
    assert result["cpu_seconds"] == round(1.5 * 15) and lora["loss"] == [2.0, 1.0]


def test_the_result_is_refused_while_others_are_at_it(campaign: Campaign, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(campaign_module, "KEPT", str(tmp_path))
    monkeypatch.setattr(campaign_module, "task_of", lambda settings: NamedTask())
    with campaign.folder.claim(campaign.missing()[0].key()):
        with pytest.raises(RuntimeError, match="other processes are doing .* runs, such as .*; wait for them"):
            campaign_module.measure(SETTINGS)
    assert campaign_module.measure(SETTINGS)["methods"].keys() == SETTINGS["methods"].keys()


def test_a_result_is_only_added_to(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(campaign_module, "measure_run", measured)
    monkeypatch.setattr(campaign_module, "task_of", lambda settings: NamedTask())
    monkeypatch.setattr(campaign_module, "KEPT", str(tmp_path / "kept"))
    monkeypatch.setattr(campaign_module, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    settings = SETTINGS | {"title": "made up"}
    first = {"settings": settings, "environment": "the first", **campaign_module.measure(settings)}
    (tmp_path / "results" / "few_shot_made_up.json").write_text(json.dumps(first))

    monkeypatch.setattr(campaign_module, "KEPT", str(tmp_path / "another machine"))
    more = settings | {"methods": SETTINGS["methods"] | {"new": SETTINGS["methods"]["Deep LoRA"] | {"seeds": 1}}}
    second = campaign_module.measure(more)
    assert second["cpu_seconds"] == round(1.5)  # one run
    assert second["methods"]["LoRA"] == first["methods"]["LoRA"] | {"environment": "the first"}
    new, baseline = second["methods"]["new"], first["methods"]["LoRA"]
    assert new["difference"]["mean"] == pytest.approx(new["test"]["mean"] - baseline["test"]["values"][0], abs=1e-5)
    assert "environment" not in new

    changed = settings | {"methods": SETTINGS["methods"] | {"LoRA": SETTINGS["methods"]["LoRA"] | {"seeds": 2}}}
    earlier = campaign_module.earlier_rows(changed, tmp_path / "results")
    assert earlier.keys() == {"Deep LoRA"}
    assert campaign_module.earlier_rows(settings | {"baseline": "Deep LoRA"}, tmp_path / "results") == {}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_starts_from_the_pretrained_model_and_trains_no_embedding(name: str, word_pairs: Task) -> None:
    method, chosen = METHODS[name], word_pairs.split(0)["train"][:4]
    model = word_pairs.model(0).eval()
    before = word_pairs.loss(model, chosen, 0).item()
    adapted(method, model, word_pairs, lambda: word_pairs.loss(model, chosen, 0).backward(), 0)
    assert word_pairs.loss(model.eval(), chosen, 0).item() == pytest.approx(before, rel=1e-3)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and not any("embeddings" in name for name in trained)
    assert all(group["weight_decay"] == 0 for group in optimizer_of(method, model, 1e-3, word_pairs).param_groups)


def test_a_key_names_the_later_fields_only_when_they_are_used() -> None:
    plain = Method("lora", {"r": 2})
    assert json.loads(plain.key()) == {"adapter": "lora", "config": {"r": 2}, "batches": 0, "adam_eps": None}
    assert json.loads(replace(plain, start="normal").key())["start"] == "normal"


def test_a_restart_keeps_what_was_learned_and_starts_a_new_adapter(word_pairs: Task) -> None:
    word_pairs.settings = replace(word_pairs.settings, validation=60, test=60)  # finer rankings
    method = Method("deep_lora", {"r": 2}, batches=1, restart=1)
    run = measure_run(word_pairs, method, 1e-2, 0, [0.01])
    straight = measure_run(word_pairs, replace(method, restart=0), 1e-2, 0, [0.01])
    assert run["curve"][0] == straight["curve"][0] and run["curve"][1] != straight["curve"][1]
    assert run["loss"] == straight["loss"] and run["exported"] == [] and run["ranks"] == []


@pytest.mark.parametrize("name", ["LoRA", "Deep LoRA"])
def test_effective_ranks_are_those_of_the_dense_update(name: str, word_pairs: Task) -> None:
    method, model, chosen = METHODS[name], word_pairs.model(0), word_pairs.split(0)["train"][:4]
    adapted(method, model, word_pairs, lambda: word_pairs.loss(model, chosen, 0).backward(), 0)
    assert set(effective_ranks(method, model)) == {0}
    generator = torch.Generator().manual_seed(0)
    for parameter in model.encoder.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    values = [torch.linalg.svdvals(m.get_delta_weight("default")) for m in model.encoder.modules()
              if hasattr(m, "get_delta_weight")]  # fmt: skip
    assert effective_ranks(method, model) == [int((v > 0.01 * v[0]).sum()) if v[0] > 1e-3 else 0 for v in values]


def test_an_unknown_adapter_is_refused(word_pairs: Task) -> None:
    with pytest.raises(ValueError, match="`adapter` must be 'lora', 'deep_lora' or 'full', got 'dora'"):
        adapted(Method("dora"), word_pairs.model(0), word_pairs, lambda: None, 0)


def test_a_run_repeats_to_the_digit_and_its_export_scores_alike(word_pairs: Task) -> None:
    runs = [measure_run(word_pairs, METHODS["Deep LoRA"], 1e-3, 0, [0.01]) for _ in range(2)]
    for run in runs:
        del run["cpu_seconds"]
    assert runs[0] == runs[1] and [point["step"] for point in runs[0]["curve"]] == [1, 2]
    assert runs[0]["exported"][0]["test"] == pytest.approx(runs[0]["test"], abs=0.02)


def test_the_runner_makes_a_result_file_of_tiny_settings(tmp_path, monkeypatch) -> None:
    tiny = SETTINGS | {"benchmark": "few_shot", "threads": torch.get_num_threads(), "sweep_seeds": [100]}
    tiny["methods"] = {
        "LoRA": {"adapter": "lora", "config": {"r": 2}, "rates": [1e-3], "seeds": 1},
        "Deep LoRA": {"adapter": "deep_lora", "config": {"r": 2}, "batches": 1, "rates": [1e-3], "seeds": 1},
    }
    monkeypatch.setattr(runner, "SETTINGS", tmp_path / "settings")
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(campaign_module, "KEPT", str(tmp_path / "kept"))
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "tiny.json").write_text(json.dumps(tiny))
    result = json.loads(runner.run("tiny", repeats=None, output=None).read_text())
    assert result["settings"] == tiny and list(result["methods"]) == ["LoRA", "Deep LoRA"]
    assert all(abs(row["test"]["mean"]) > 0 for row in result["methods"].values())
